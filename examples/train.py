"""Train pocket further on your own images and captions: a script to copy and change.

python examples/train.py examples/captions.csv trained
"""

import sys

import torch

import oneclip
from oneclip.image import Augment, AugmentCfg
from oneclip.train import Prepare, ProgressBar, TrainCfg, Trainer, latest_checkpoint
from oneclip.train.data import Loader, open_samples

if len(sys.argv) != 3:
    sys.exit(__doc__)
data, out = sys.argv[1:]

device = "cuda" if torch.cuda.is_available() else "cpu"
clip = oneclip.load("pocket", device=device)
samples = open_samples(data)  # a table, tars, a dataset, or a folder with a folder of images for each class
batch_size, epochs = min(64, len(samples)), 3
source = Loader(samples, batch_size, Augment(clip.preprocess.cfg, AugmentCfg(scale=(0.6, 1.0))))

steps = max(1, round(epochs * len(samples) / batch_size))
trainer = Trainer(
    clip.model,
    source,
    TrainCfg(steps=steps, lr=1e-4, warmup=steps // 10, checkpoint_every=500),
    prepare=Prepare.of(clip),
    description={"model_cfg": clip.cfg.to_dict(), "preprocess_cfg": clip.preprocess.cfg.to_dict()},
    out=out,
    reporter=ProgressBar(),
    device=device,
)
if latest_checkpoint(out):
    trainer.resume(out)
outcome = trainer.fit()  # Ctrl-C keeps what was done, and the same command goes on from there
source.close()
print(f"oneclip classify cat.jpg -l cat -l dog --model {outcome.checkpoint}")
