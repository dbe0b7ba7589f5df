"""A plain ViT drops the pixels on the right and below that fill no patch."""

from collections.abc import Sequence


def check_filled(size: Sequence[int], patch_size: int, option: str = "") -> None:
    """Checks that patches fill images.

    Args:
        size: Sides of the images in pixels: one of squares, or height and width.
        patch_size: Side of a patch.
        option: That gives the size on the command line, if there is one.

    Raises:
        ValueError: A side is no multiple of the patch's.
    """
    if any(side % patch_size for side in size):
        sides = " x ".join(map(str, size if len(size) > 1 else [*size, *size]))
        nearest = (str(max(1, round(side / patch_size)) * patch_size) for side in size)
        raise ValueError(
            f"Images of {sides} pixels: the model's patches are {patch_size} pixels wide, and it would drop what fills "
            f"none. Give multiples of {patch_size}, for instance {' '.join([option, *nearest]).strip()}."
        )
