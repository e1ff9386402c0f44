"""What a solve costs beyond its network calls: ours and diffusers' loops over bare calls of
the same network.
"""

import argparse
import time
from statistics import median
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler
from odebc.samplers import sampler
from odebc.schedule import Schedule
from odebc.unet import UNet


def diffusers_loop(scheduler, n):
    "Their solve as ours: grid and steps, (eps_fn, x) -> x_0"

    def sample(eps_fn, x):
        scheduler.set_timesteps(n)
        for t in scheduler.timesteps:
            x = scheduler.step(eps_fn(x, t + 1), t, x).prev_sample
        return x

    return sample


def measure(run, eps_fn, x_T):
    "Wall time of one solve, and its processor time over that of the network calls in it"
    inside = 0.0

    def timed(x, t):
        nonlocal inside
        start = time.process_time()
        eps = eps_fn(x, t)
        inside += time.process_time() - start
        return eps

    wall, processor = time.perf_counter(), time.process_time()
    run(timed, x_T)
    return time.perf_counter() - wall, (time.process_time() - processor) / inside


@torch.no_grad()
def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--calls', type=int, default=50, help='network calls per solve')
    parser.add_argument('--rounds', type=int, default=5, help='rounds over all loops')
    parser.add_argument('--batch', type=int, default=16, help='64×64 images per call')
    args = parser.parse_args()
    sched = Schedule.linear()
    generator = torch.Generator().manual_seed(0)
    n = args.calls
    net = UNet.small().eval()
    x_T, y_up = torch.randn(2, args.batch, 3, 64, 64, generator=generator)

    def eps_fn(x, t):
        return net(x, y_up, t)

    def bare(eps_fn, x):
        for t in torch.linspace(sched.T, 1, n).tolist():
            eps_fn(x, t)

    def ours(label):
        return lambda eps_fn, x: sampler(label, sched)(eps_fn, x)

    ddim = DDIMScheduler(clip_sample=False, timestep_spacing='trailing')
    dpm = DPMSolverMultistepScheduler(use_lu_lambdas=True)
    loops = {
        'bare calls': bare,
        f'odebc DDIM-{n}': ours(f'DDIM-{n}'),
        f'odebc DPM++-2M-{n}': ours(f'DPM++-2M-{n}'),
        'diffusers DDIM': diffusers_loop(ddim, n),
        'diffusers DPM++ 2M': diffusers_loop(dpm, n),
    }
    results = {name: [] for name in loops}
    bare(eps_fn, x_T)
    for i in range(args.rounds):
        names = list(loops)
        for name in names[i % len(names) :] + names[: i % len(names)]:
            results[name].append(measure(loops[name], eps_fn, x_T))

    def show(ratios):
        return f'{median(ratios):.4f} ({min(ratios):.4f}–{max(ratios):.4f})'

    print(
        f'{n} calls, {args.rounds} rounds, {torch.get_num_threads()} threads: '
        'median (range) over rounds'
    )
    print(f'{"":20} {"wall, over bare calls":26} processor, over its own calls')
    for name, own in results.items():
        wall = [a / b for (a, _), (b, _) in zip(own, results['bare calls'])]
        processor = [ratio for _, ratio in own]
        print(f'{name:20} {show(wall):26} {show(processor)}')


if __name__ == '__main__':
    main()
