"Networks travel to the Hub and back: here it is a server on this machine."

import base64
import hashlib
import json
import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
import pytest
import torch
from odebc.hub import HubSR3
from odebc.matrix import candidates
from odebc.sr3 import SR3

COMMIT = 'c0ffee' * 6 + 'abcd'
ANSWERS = {  # what the Hub says to those who create and ask
    r'/api/repos/create': lambda s: dict(url=f'{s.url}/me/mine', name='me/mine'),
    r'/api/validate-yaml': lambda s: dict(warnings=[], errors=[]),
    r'/api/models/me/mine/preupload/\w+': lambda s: dict(
        files=[
            dict(path=f['path'], uploadMode='regular', shouldIgnore=False)
            for f in s.told['files']
        ]
    ),
    r'/api/models/me/mine(/revision/\w+)?': lambda s: dict(
        id='me/mine', sha=COMMIT, siblings=[dict(rfilename=n) for n in s.files]
    ),
}


class Hub(BaseHTTPRequestHandler):
    "As much of it as a model needs"

    files, asked = {}, []

    def log_message(self, *_):
        pass

    def do(self):
        body = self.rfile.read(int(self.headers.get('Content-Length') or 0))
        path = self.path.partition('?')[0]
        self.asked.append((self.command, path))
        self.url = f'http://{self.headers["Host"]}'
        found = re.fullmatch(r'/me/mine/resolve/\w+/(.+)', path)
        if found:
            return self.file(found[1])
        if path.endswith('/commit/main'):
            return self.commit(body)
        self.told = json.loads(body or b'{}') if body[:1] in (b'{', b'') else {}
        for form, answer in ANSWERS.items():
            if re.fullmatch(form, path):
                return self.say(200, json.dumps(answer(self)).encode())
        self.say(404, b'{}')

    do_GET = do_HEAD = do_POST = do

    def commit(self, body):
        for line in map(json.loads, body.splitlines()):
            if line['key'] == 'file':
                value = line['value']
                self.files[value['path']] = base64.b64decode(value['content'])
        told = dict(commitUrl=f'{self.url}/me/mine/commit/{COMMIT}', commitOid=COMMIT)
        self.say(200, json.dumps(told | dict(hookOutput='', pullRequestUrl=None)).encode())

    def file(self, name):
        if name not in self.files:
            return self.say(404, b'', **{'X-Error-Code': 'EntryNotFound'})
        content = self.files[name]
        tag = hashlib.sha256(content).hexdigest()
        self.say(200, content, **{'X-Repo-Commit': COMMIT, 'ETag': f'"{tag}"'})

    def say(self, code, content, **headers):
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header('Content-Length', str(len(content)))
        self.end_headers()
        if self.command != 'HEAD':
            self.wfile.write(content)


@pytest.fixture
def hub():
    Hub.files, Hub.asked = {}, []
    server = ThreadingHTTPServer(('127.0.0.1', 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f'http://127.0.0.1:{server.server_port}'
    server.shutdown()
    server.server_close()


PUSH = """
from odebc.hub import HubSR3
from odebc.sr3 import SR3
HubSR3.of(SR3.from_pretrained('small')).push_to_hub('me/mine', token='hf_x')
"""
LOAD = """
from odebc.hub import HubSR3
model = HubSR3.from_pretrained('me/mine', precision='bfloat16')
print(model.fingerprint, model.samples, model.precision)
"""


def played(code, hub, tmp_path):
    "In a process of its own: the library reads its environment once"
    import os

    home = dict(HF_ENDPOINT=hub, HF_HOME=str(tmp_path), HF_HUB_DISABLE_XET='1')
    env = os.environ | home | dict(HF_HUB_DISABLE_TELEMETRY='1')
    command = [sys.executable, '-c', code]
    done = subprocess.run(command, env=env, capture_output=True, encoding='utf8', timeout=300)
    assert done.returncode == 0, (done.stderr, Hub.asked)
    return done.stdout


def test_to_the_hub_and_back(hub, tmp_path):
    played(PUSH, hub, tmp_path)
    assert {'config.json', 'record.json', 'model.safetensors', 'README.md'} <= set(Hub.files)
    card = Hub.files['README.md'].decode()
    assert 'library_name: odebc' in card and 'license: apache-2.0' in card
    small = SR3.from_pretrained('small')
    told = played(LOAD, hub, tmp_path).split()
    assert told == [small.fingerprint, str(small.samples), 'bfloat16']
    Hub.files.clear()  # it is in the cache now, and there need be no network
    again = LOAD.replace("'bfloat16')", "'bfloat16', local_files_only=True)")
    assert played(again, 'http://127.0.0.1:9', tmp_path).split() == told


def test_by_a_folder(tmp_path):
    mine = HubSR3.of(SR3.from_pretrained('small-mid'))
    mine.save_pretrained(tmp_path)
    x_T, y = candidates(1, mine.shape), torch.zeros(1, 3, 16, 16)
    for again in (HubSR3.from_pretrained(tmp_path), SR3.from_pretrained(tmp_path)):
        assert torch.equal(again.h(x_T, y, 'DDIM-2'), mine.h(x_T, y, 'DDIM-2'))
        assert again.record == mine.record
