"""Memory of the host for copies of tensors."""

import pytest
import torch
from prolong.learner.checkpoints.host_memory import HostMemory


def test_a_copy_is_not_changed_with_its_tensor_nor_kept_without_a_gpu() -> None:
    memory, tensor = HostMemory(), torch.arange(6.0).reshape(2, 3).T
    copy = memory.copy("a", tensor)
    memory.wait()
    tensor.zero_()
    assert copy.tolist() == [[0, 3], [1, 4], [2, 5]]
    assert copy.is_contiguous()
    assert not memory._kept


@pytest.mark.gpu
def test_copies_from_a_gpu_lie_in_pinned_memory_that_the_next_checkpoint_uses_again() -> None:
    memory = HostMemory()
    tensor = torch.randn(1024, 1024, device="cuda")
    copy = memory.copy("a", tensor)
    memory.wait()
    assert torch.equal(copy, tensor.cpu())
    assert copy.is_pinned()
    tensor.add_(1.0)
    again = memory.copy("a", tensor)
    memory.wait()
    assert again.data_ptr() == copy.data_ptr()
    assert torch.equal(again, tensor.cpu())
