"""Train pocket further on your own images and captions: a script to copy and change.

python examples/train.py examples/captions.csv trained
"""

import sys

import torch

import oneclip
from oneclip.image import Augment, AugmentCfg
from oneclip.train import Prepare, ProgressBar, TrainCfg, Trainer, latest_checkpoint
from oneclip.train.data import BatchLoader, open_dataset

if len(sys.argv) != 3:
    sys.exit(__doc__)
data, out = sys.argv[1:]

device = "cuda" if torch.cuda.is_available() else "cpu"
model = oneclip.load("pocket", device=device)
dataset = open_dataset(data)  # a table, tars, a dataset, or a folder with a folder of images for each class
batch_size, epochs = min(64, len(dataset)), 3
source = BatchLoader(dataset, batch_size, Augment(model.preprocess.cfg, AugmentCfg(scale=(0.6, 1.0))))

steps = max(1, round(epochs * len(dataset) / batch_size))
trainer = Trainer(
    model.model,
    source,
    TrainCfg(steps=steps, lr=1e-4, warmup=steps // 10, checkpoint_every=500),
    prepare=Prepare.for_model(model),
    description={"model_cfg": model.cfg.to_dict(), "preprocess_cfg": model.preprocess.cfg.to_dict()},
    out=out,
    reporter=ProgressBar(),
    device=device,
)
if latest_checkpoint(out):
    trainer.resume(out)
result = trainer.fit()  # Ctrl-C writes a checkpoint, and the same command resumes from it
source.close()
print(f"oneclip classify cat.jpg -l cat -l dog --model {result.checkpoint}")
