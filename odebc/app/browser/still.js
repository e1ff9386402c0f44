// An app in a page of its own: answers that were kept, no kernel, no network.

/** As `ask` of a kernel. */
function memory(answers) {
  return async (name, args = {}) => {
    const value = answers[JSON.stringify([name, args])];
    if (value) return value;
    throw Object.assign(new Error("this needs a running kernel"), { kind: "absent" });
  };
}

const facts = JSON.parse(document.getElementById("facts").textContent);
for (const answer of Object.values(facts.answers)) {
  for (const [name, value] of Object.entries(answer)) {
    if (!value?.base64) continue;
    const bytes = Uint8Array.from(atob(value.base64), (letter) => letter.charCodeAt(0));
    answer[name] = new DataView(bytes.buffer);
  }
}
const settings = location.hash.slice(1);
if (settings) facts.state = JSON.parse(decodeURIComponent(settings));
present(document.body, facts, memory(facts.answers));
