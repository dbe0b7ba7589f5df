"""Anatomy of a residual block, as data: where the MLP branch enters, how tokens lie, where the grid is known."""

from __future__ import annotations

from dataclasses import dataclass

from mona_peft.blocks.layout import Layout

ATTENTION, MLP = "attention", "mlp"
SITES = (ATTENTION, MLP)
"""The two halves of a block, at each of which an adapter may stand."""


@dataclass(frozen=True)
class BlockAnatomy:
    """What a residual adapter has to know of a block `h = x + attn(norm(x)); out = h + mlp(norm(h))`.

    The block takes hidden states as its first positional argument and returns them alone or first in a tuple. Token
    blocks need one source of the grid (H, W): `grid_arguments`, `patch_projection` or `sizes_argument`; blocks that
    take whole maps need none. Tokens in front of the last H * W (class token, registers, queries) are prefix tokens.

    Attributes:
        mlp_entry: Name of the submodule that alone receives `h`: the norm before the MLP, or the MLP's first part in
            blocks that normalise after it. `None` for a block with one residual (ConvNeXt): there is no `h`, and the
            only site is the block's end, `"mlp"`.
        norm: Name of a norm of the block, also of one further inside (`"layer.1.normalization"`): the length of its
            weight is the width C, and its device and type are those of the block.
        mlp_branch: Names of the submodules of the MLP branch behind `mlp_entry`, in the order in which hidden states go
            through them and nothing else; without them the branch cannot be recomputed (`recompute_mlp`), and no
            adapter can stand on its output.
        attention_branch: Name of the last submodule of the attention branch, whose output (or the first of its
            outputs) is what the block adds to its input, but for dropout, stochastic depth and the order of tokens;
            without it no adapter can stand on the output of the branch. Its batch may be windows, those of a sample
            together.
        attention_path: Names of submodules of the attention branch through which hidden states go one after the other
            and through nothing else, the attention last: (norm, attention), or the attention alone where the block
            rearranges tokens before it; without them the branch cannot be recomputed (`recompute_attention`).
        fresh_sums: Whether `h` and `out` are sums that the block itself has just made, and the tensor that `mlp_entry`
            receives is the one to which the block adds its MLP branch. An adapter may then add to them in place.
        grid_arguments: Names of the arguments of the block's `forward` that hold (H, W): one that holds the pair, or
            two.
        patch_projection: Ending of the name of the convolution whose output map has the tokens' grid, for blocks that
            are told nothing. It is looked for in the nearest module around the block. Of a video, its output has the
            frames (T, H, W), and adapters see each frame by itself.
        sizes_argument: Name of the argument with the sizes of all images of a batch, (H, W) or (T, H, W) in patches,
            where images of differing sizes lie in one sequence or are padded to one length; or a mask (B, H, W) of the
            patches that are no padding. It is an argument of the `forward` of a module around the block.
        layout: How the block's hidden states lie, a `Layout` or its name.
        mlp_entry_layout: How they lie where the MLP branch enters, if otherwise.
        mlp_exit: Name of the submodule that alone receives `out`, in blocks that go on behind it; blocks without this
            submodule end there.
        post_norm_flag: Name of the block's attribute that says whether it normalises after its branches, for classes
            of both kinds.
        post_norm_mlp_entry: `mlp_entry` where the flag is set.
        unroll_schedule: Name of the attribute, of a module around the block, with the strides by which the tokens of
            each stage are unrolled into mask units (Hiera).
        windows_a_side: Path in the block to the number of windows along each side of an image, where the tokens of each
            window are a sample of their own, with prefix tokens of their own (RF-DETR, LW-DETR).
        tower: Name of the class of a module around the block, if a text tower is made of blocks of the same class:
            blocks that stand elsewhere are left alone.
        samples_first: Name of an attribute, of a module around the block, that is true where hidden states lie as
            `layout` says; in versions without it tokens lie in front of samples, and the block is refused.

    Raises:
        ValueError: If the fields contradict each other.
    """

    mlp_entry: str | None
    norm: str
    grid_arguments: tuple[str, ...] = ()
    patch_projection: str | None = None
    sizes_argument: str | None = None
    layout: Layout = Layout.BNC
    mlp_entry_layout: Layout | None = None
    mlp_exit: str | None = None
    post_norm_flag: str | None = None
    post_norm_mlp_entry: str | None = None
    unroll_schedule: str | None = None
    windows_a_side: str | None = None
    tower: str | None = None
    samples_first: str | None = None
    mlp_branch: tuple[str, ...] = ()
    attention_branch: str | None = None
    attention_path: tuple[str, ...] = ()
    fresh_sums: bool = False

    def __post_init__(self) -> None:
        """Check the fields against each other."""
        for field in ("layout", "mlp_entry_layout"):
            if getattr(self, field) is not None:
                object.__setattr__(self, field, Layout.of(field, getattr(self, field)))
        if self.mlp_branch[:1] == (self.mlp_entry,):
            object.__setattr__(self, "mlp_branch", tuple(self.mlp_branch[1:]))
        branches = (self.mlp_entry, *self.mlp_branch, *self.attention_path, self.attention_branch)
        tapped = (*branches, self.mlp_exit, self.post_norm_mlp_entry)
        inner = [name for name in tapped if name is not None and "." in name]
        if inner:
            raise ValueError(
                f"{inner}: only `norm` may lie further inside. An adapter meets direct children of the block, so name "
                "those, without a dot."
            )
        if isinstance(self.grid_arguments, str):
            object.__setattr__(self, "grid_arguments", (self.grid_arguments,))
        sources = [self.grid_arguments or None, self.patch_projection, self.sizes_argument]
        if sum(source is not None for source in sources) != (self.layout in (Layout.BNC, Layout.NC)):
            raise ValueError(
                f"grid_arguments={self.grid_arguments!r}, patch_projection={self.patch_projection!r}, "
                f"sizes_argument={self.sizes_argument!r}, layout={self.layout.value!r}: a block of tokens ('BNC', "
                "'NC') takes its grid (H, W) from exactly one of grid_arguments, patch_projection and sizes_argument, "
                "a block of maps from none."
            )
        if self.layout is Layout.NC and self.sizes_argument is None:
            raise ValueError("layout='NC': only sizes_argument tells the images of one sequence apart; name it.")
        if len(self.grid_arguments) > 2:
            raise ValueError(
                f"grid_arguments={self.grid_arguments!r}: name one argument that holds (H, W), or two, height and "
                "width."
            )

    def branch(self, site: str) -> tuple[str, ...]:
        """Return the names of the submodules that the branch of a site can be recomputed by; none if not known."""
        if site == ATTENTION:
            return self.attention_path
        return (self.mlp_entry, *self.mlp_branch) if self.mlp_branch else ()
