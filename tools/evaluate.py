"A model on seeded crops of a folder that it was not trained on: LPIPS, PSNR and colour bias beside bicubic enlargement."
import argparse
import time
import torch
from tqdm import tqdm
from odebc.data import crops, degrade, image_folder, upsample
from odebc.metrics import lpips, psnr
from odebc.search import candidates
from odebc.train import SR3


def row(name, x, z, bicubic, seconds=0.):
    "LPIPS and its ratio to bicubic's, PSNR, and the rms over images and channels of the mean error (colour bias)"
    distance = torch.cat([lpips(a, b) for a, b in zip(x.split(16), z.split(16))])
    ratio, bias = distance.mean()/bicubic if bicubic else 1., (x - z).mean((2, 3)).square().mean().sqrt()
    print(f'| {name} | {distance.mean():.4f} ± {distance.std()/len(z)**.5:.4f} | {ratio:.3f} | {psnr(x, z).mean():.2f} | {bias:.4f} | {seconds/len(z):.2f} |', flush=True)
    return distance.mean().item()


@torch.no_grad()
def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('samplers', nargs='+', help='labels, such as DDIM-50 DDPM-100')
    parser.add_argument('--model', default='small', help='a shipped model, or a folder')
    parser.add_argument('--images', required=True, help='folder of photographs')
    parser.add_argument('--crops', type=int, default=256)
    parser.add_argument('--size', type=int, help='side of a crop; of the training by default')
    args = parser.parse_args()
    model = SR3.from_pretrained(args.model)
    size = args.size or model.size
    z = crops(list(image_folder(args.images, size).values()), args.crops, size, torch.Generator().manual_seed(0))
    y, x_T = degrade(z, model.scale), candidates(args.crops, z.shape[1:], seed=7)
    print(f'{args.model}: {model.record.get("samples")} patches of training; {args.crops} crops of {size}×{size}\n\n| | LPIPS | of bicubic | PSNR | colour bias | s/image |\n| --- | --- | --- | --- | --- | --- |')
    bicubic = row('bicubic', upsample(y, model.scale), z, None)
    for label in args.samplers:
        start = time.monotonic()
        parts = [model.h(x_T[i:i+16], y[i:i+16], label, torch.Generator().manual_seed(i)) for i in tqdm(range(0, args.crops, 16), desc=label)]
        row(label, torch.cat(parts), z, bicubic, time.monotonic() - start)


if __name__ == '__main__': main()
