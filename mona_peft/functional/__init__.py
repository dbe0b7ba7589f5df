"""Mona's arithmetic as functions.

`formula` is the paper's, to be read; all else computes the same with less time and memory. `dispatch` chooses;
`folding` joins parameters that act one after the other; `fast` is the autograd function, made of `steps`, `depthwise`
convolution and seeded `dropout`; `compiled` is what `torch.compile` trains with, and `opaque` the operators in it that
a compiler does not look into. `triton` holds kernels for a GPU that do what `fast` does, for those who ask for them.
"""
