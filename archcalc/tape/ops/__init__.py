"""The operations: each knows its weights, its FLOPs, what it saves for backward and what it caches, in one place.

FLOPs: 2 a multiply-add; norms, softmax, rope, activations and other elementwise work are not counted.
A linear's backward is one GEMM for the weights and one for the input: twice the forward, or once where the input needs
no gradient (Megatron-LM, arXiv:2104.04473, appendix). Attention's backward is twice its forward.
What is saved follows PyTorch autograd and Megatron-LM / TransformerEngine; see docs/formulas.md.
"""
