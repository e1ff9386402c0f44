"""The mean of a network's weights before and after a training: how a stage of `base` was made
(Wortsman et al., Robust fine-tuning of zero-shot models, 2022).
"""

import argparse
from pathlib import Path
from odebc.sr3 import SR3


def alike(a, b):
    return a.F.config == b.F.config and (a.s is None) == (b.s is None)


def mean(before, after, share):
    "`after`, with weights between the two (its record says so), and the size of `before`"
    if not 0 <= share <= 1:
        raise ValueError(f'the share must be in 0 … 1, not {share:g}')
    if after.record.get('start') != before.record:
        raise ValueError('the second network was not trained on from the first')
    if not alike(before.net, after.net):
        raise ValueError('the two networks are not of one kind')
    weights = before.net.state_dict()
    for name, end in after.net.state_dict().items():
        weights[name] = weights[name].lerp(end, share)
    after.net.load_state_dict(weights)
    after.size = before.size  # the patches of the training may have been smaller
    if share < 1:
        after.record['note'] = (
            f'tools/mean.py: these weights are {1 - share:g} of those before the training, '
            f'and {share:g} of those after it'
        )
    return after


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('before', help='a shipped model, or a folder')
    parser.add_argument('after', help='the same trained on (odebc train --start)')
    parser.add_argument('--out', type=Path, required=True, help='folder for the model')
    parser.add_argument(
        '--share',
        type=float,
        default=0.5,
        help='of the weights after the training; 1 keeps those, at the size of those before',
    )
    args = parser.parse_args()
    try:
        before = SR3.from_pretrained(args.before)
        after = SR3.from_pretrained(args.after)
        mean(before, after, args.share).save_pretrained(args.out)
    except ValueError as e:
        parser.error(str(e))


if __name__ == '__main__':
    main()
