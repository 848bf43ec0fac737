"""How the twin's modules run: the seams between a layer and the kernels that compute it.

A layer is written once. What differs between ways to run it stands here: `eager`, the plain PyTorch operations of
public modeling code; `fused`, autograd functions that keep what the kernels of Megatron-LM and TransformerEngine keep
(those sources were read, not run, so it is exactly as good as that reading); `counted`, plain operations whose FLOPs
torch counts by its own rules. Attention cores are chosen apart: `flash`, `unfused`, `counted`.
"""
