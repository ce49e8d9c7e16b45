"""How long does one image take, from file to embedding?

    python benchmarks/latency.py [--architecture ViT-B-32] [--rounds 40]

One JPEG of 640x480, decoded, preprocessed and encoded by each package in its usual way, in turn; and the tower alone,
on a tensor. Medians of many rounds, in milliseconds.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from contest import entrants, given, photographs
from contest.arena import contest, machine, ours, serve


def of_ours(folder: Path) -> dict[str, Callable[[], Any]]:
    tasks = {
        k: v for k, v in entrants.of_ours(folder).items() if k.startswith("images") and "reference" not in k
    }
    import oneclip

    for precision in ("fp32", "bf16", "int8"):
        clip = oneclip.load(folder / "model", device="cpu", precision=precision)
        tasks[f"file, {precision}"] = lambda clip=clip: clip.encode_images(folder / "image.jpg")
    return tasks


def of_open_clip(folder: Path) -> dict[str, Callable[[], Any]]:
    tasks = {k: v for k, v in entrants.of_open_clip(folder).items() if k.startswith("images")}
    from PIL import Image

    import open_clip

    for precision in ("fp32", "pure_bf16"):
        model, _, preprocess = open_clip.create_model_and_transforms(
            f"local-dir:{folder / 'model'}", precision=precision
        )
        model.eval()
        dtype = next(model.parameters()).dtype

        def encode(model: Any = model, preprocess: Any = preprocess, dtype: torch.dtype = dtype) -> Any:
            with torch.inference_mode():
                pixels = preprocess(Image.open(folder / "image.jpg")).unsqueeze(0).to(dtype)
                return model.encode_image(pixels, normalize=True).float().numpy()

        tasks[f"file, {precision}"] = encode
    return tasks


def of_transformers(folder: Path) -> dict[str, Callable[[], Any]]:
    tasks = {k: v for k, v in entrants.of_transformers(folder).items() if k.startswith("images")}
    from PIL import Image
    from transformers import AutoImageProcessor, CLIPModel

    processor = AutoImageProcessor.from_pretrained(folder / "transformers")
    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        model = CLIPModel.from_pretrained(folder / "transformers", dtype=dtype).eval()

        def encode(model: Any = model, dtype: torch.dtype = dtype) -> Any:
            with torch.inference_mode():
                given_ = processor(Image.open(folder / "image.jpg"), return_tensors="pt")
                output = model.get_image_features(given_["pixel_values"].to(dtype))
                return (output if isinstance(output, torch.Tensor) else output.pooler_output).float().numpy()

        tasks[f"file, {precision}"] = encode
    return tasks


ENTRANTS = {"oneclip": of_ours, "open_clip_torch": of_open_clip, "transformers": of_transformers}


def main() -> None:
    serve(ENTRANTS)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--architecture", default="ViT-B-32")
    parser.add_argument("--rounds", type=int, default=40)
    options = parser.parse_args()
    ours()
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        given.write_model(folder, options.architecture)
        torch.save(given.pixels(options.architecture, 1), folder / "pixels.pt")
        (folder / "captions.txt").write_text("a cat", encoding="utf-8")
        photographs.write_jpegs(folder, 1, (640, 480))
        (folder / "00000.jpg").rename(folder / "image.jpg")
        results = contest(ENTRANTS, folder, options.rounds)
    given.say(f"{options.architecture}, one image at a time; {options.rounds} rounds")
    given.say(machine())
    for side, words in (("file", "from the file"), ("images", "the tower alone")):
        base = ("open_clip_torch", f"{side}, fp32")
        given.say()
        given.say(f"{words:33} {'ms':>8} {'x fp32 of open_clip_torch':>26}")
        for entrant, task in (key for key in results.seconds if key[1].startswith(side)):
            name = f"{entrant}, {task.removeprefix(f'{side}, ')}"
            milliseconds = 1e3 * results.median(entrant, task)
            given.say(f"  {name:31} {milliseconds:>8.1f} {results.ratio((entrant, task), base):>26.2f}")


if __name__ == "__main__":
    main()
