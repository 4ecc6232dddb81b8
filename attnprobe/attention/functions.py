"""The functions of torch by which attention modules of any code attend."""

import torch

SOFTMAX = {
    torch.nn.functional.softmax, torch.softmax, torch.Tensor.softmax, torch.special.softmax,
}  # fmt: skip
FUSED = torch.nn.functional.scaled_dot_product_attention
MULTI_HEAD = torch.nn.functional.multi_head_attention_forward
