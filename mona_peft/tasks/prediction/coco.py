"""Predictions as files in COCO's format: results that `COCO.loadRes` takes, and the images that they are of."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mona_peft.tasks.training.run_directory import replace_file

RESULTS, IMAGES = "coco_results.json", "coco_images.json"


def write_coco(
    lines: Sequence[dict[str, Any]], labels: Sequence[str], output_dir: Path, annotations: str | None = None
) -> list[Path]:
    """Writes `coco_results.json`, and `coco_images.json` with the images and categories that its numbers stand for.

    Args:
        lines: Predictions of boxes or segments, as `predictions.jsonl` has them.
        labels: Names of the classes.
        output_dir: Where to.
        annotations: A file of COCO instances whose numbers are to be used: of images by the names of their files, of
            categories by their names. Without it images are numbered from 1 on, categories from 0.

    Returns:
        What was written.

    Raises:
        ValueError: The annotations are no such file, or lack an image or a class.
    """
    images = [
        {"id": number, "file_name": line["image"], "width": line["width"], "height": line["height"]}
        for number, line in enumerate(lines, start=1)
    ]
    categories = [{"id": number, "name": label} for number, label in enumerate(labels)]
    if annotations is not None:
        _take_numbers(annotations, images, categories)
    number_of = {category["name"]: category["id"] for category in categories}
    results = [
        {
            "image_id": image["id"],
            "category_id": number_of[entry["label"]],
            "bbox": entry["box"],
            "score": entry["score"],
            **({"segmentation": entry["segmentation"]} if "segmentation" in entry else {}),
        }
        for line, image in zip(lines, images, strict=True)
        for entry in line.get("boxes", line.get("segments"))
    ]
    written = [output_dir / RESULTS, output_dir / IMAGES]
    for path, content in zip(written, (results, {"images": images, "categories": categories}), strict=True):
        with replace_file(path) as new:
            new.write_text(json.dumps(content), encoding="utf-8")
    return written


def _take_numbers(annotations: str, images: list[dict[str, Any]], categories: list[dict[str, Any]]) -> None:
    try:
        content = json.loads(Path(annotations).read_text(encoding="utf-8"))
        image_ids = {entry["file_name"]: entry["id"] for entry in content["images"]}
        category_ids = {str(entry["name"]): entry["id"] for entry in content["categories"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"--coco_annotations {annotations}: no file of COCO instances ({type(error).__name__}: {error})."
        ) from error
    for image in images:
        # Files are named from where the annotations are, so as much of a path as they have must agree.
        parts = Path(image["file_name"]).parts
        known = ("/".join(parts[start:]) for start in range(len(parts)))
        name = next((name for name in known if name in image_ids), None)
        if name is None:
            raise ValueError(f"--coco_annotations {annotations}: there is no image {image['file_name']} in it.")
        image["id"] = image_ids[name]
    for category in categories:
        if category["name"] not in category_ids:
            raise ValueError(f"--coco_annotations {annotations}: there is no category {category['name']!r} in it.")
        category["id"] = category_ids[category["name"]]
