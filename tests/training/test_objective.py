from __future__ import annotations

import pytest
import torch
from conftest import random_ids, tiny_model

from ladm_hf.scoring.attention import scoring_attention
from ladm_hf.training.objective import FocusRecorder, same_document_loss
from ladm_hf.training.windows import NO_TEXT, UNKNOWN


def written_out(q, k, labels, scale, length, rest, per_head) -> torch.Tensor:
    """The definition, span by span."""
    batch, heads, total, _ = q.shape
    k = k.repeat_interleave(heads // k.shape[1], 1)
    losses = []
    for b in range(batch):
        for start in range(length, total, length):
            mass = (scale * q[b, :, start : start + length] @ k[b, :, :start].transpose(1, 2)).softmax(-1)
            mass = mass.unflatten(-1, (-1, length)).sum(-1).mean(1)
            same = labels[b, start : start + length, None] == labels[b, None, :start]
            target = same.float().unflatten(-1, (-1, length)).mean(-1).mean(0)
            target[0] += rest
            target = target / target.sum()
            entropy = -torch.xlogy(target, target).sum()
            together = -(target * mass.mean(0).log()).sum() - entropy
            alone = (-(target * mass.log()).sum(-1) - entropy).mean()
            losses.append((1 - per_head) * together + per_head * alone)
    return torch.stack(losses).mean()


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_loss_is_the_definition_when_nothing_is_sampled(kv_heads) -> None:
    torch.manual_seed(0)
    q, k = torch.randn(2, 4, 128, 8), torch.randn(2, kv_heads, 128, 8)
    labels = torch.randint(0, 3, (2, 128)).sort(1).values
    loss = same_document_loss(q, k, labels, 0.7, span_length=16, spans=99, queries=16, rest=1.5, per_head=0.25)
    assert torch.allclose(loss, written_out(q, k, labels, 0.7, 16, 1.5, 0.25), atol=1e-5)


def test_loss_is_zero_for_a_head_that_knows_its_document() -> None:
    # the first span is a document of its own: the sink
    labels = torch.tensor([0, 1, 1, 2, 2, 1, 3, 2]).repeat_interleave(16)[None]
    queries = torch.nn.functional.one_hot(labels, 4).float()
    keys = 30.0 * queries
    keys[:, :16] = 30.0
    loss = same_document_loss(queries[:, None], keys[:, None], labels, 1.0, 16, 99, 16, rest=1.0)
    blind = same_document_loss(0 * queries[:, None], keys[:, None], labels, 1.0, 16, 99, 16, rest=1.0)
    assert abs(loss.item()) < 1e-5
    assert blind > 0.3


def test_what_is_no_text_should_look_at_the_sink() -> None:
    labels = torch.tensor([0, 0, NO_TEXT, NO_TEXT]).repeat_interleave(16)[None]
    keys = torch.zeros(1, 1, 64, 4)
    keys[:, :, :16, 0] = 30.0
    queries = torch.zeros(1, 1, 64, 4)
    queries[..., 0] = 1.0
    sink = same_document_loss(queries, keys, labels, 1.0, 16, 99, 16)
    spread = same_document_loss(0 * queries, keys, labels, 1.0, 16, 99, 16)
    assert abs(sink.item()) < 1e-5
    assert spread > 0.3


def test_unknown_queries_teach_nothing() -> None:
    torch.manual_seed(0)
    q, k = torch.randn(2, 2, 128, 8), torch.randn(2, 2, 128, 8)
    labels = torch.randint(0, 2, (2, 8)).repeat_interleave(16, 1)
    alone = same_document_loss(q[:1], k[:1], labels[:1], 1.0, 16, 99, 16)
    labels[1] = UNKNOWN
    assert torch.allclose(same_document_loss(q, k, labels, 1.0, 16, 99, 16), alone)
    q.requires_grad_()
    nothing = same_document_loss(q, k, torch.full_like(labels, UNKNOWN), 1.0, 16, 99, 16)
    nothing.backward()
    assert nothing.item() == 0
    assert q.grad is not None
    assert not q.grad.any()


def test_training_the_projections_lowers_the_loss_on_sampled_spans() -> None:
    torch.manual_seed(0)
    labels = torch.randint(0, 3, (4, 16)).repeat_interleave(16, 1)
    hidden = torch.nn.functional.one_hot(labels, 3).float() + 0.1 * torch.randn(4, 256, 3)
    weights = [torch.randn(3, 8, requires_grad=True) for _ in range(2)]
    optimizer = torch.optim.Adam(weights, lr=0.1)
    losses = []
    for _ in range(100):
        q, k = ((hidden @ weight)[:, None] for weight in weights)
        loss = same_document_loss(q, k, labels, 1.0, span_length=16, spans=4, queries=4, rest=0.05)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])


def test_recorder_keeps_the_layers_it_wants_with_their_gradient() -> None:
    recorder = FocusRecorder((2,))
    assert recorder.wants(2)
    assert not recorder.wants(1)
    assert not recorder.is_last(2)
    q = torch.zeros(1, 1, 4, 2, requires_grad=True)
    recorder.record(2, q, q, 0.5, None, None)
    assert recorder.kept[2][0].requires_grad


@pytest.mark.parametrize("gradients", [False, True])
def test_recorder_goes_through_a_model(gradients: bool) -> None:
    model = tiny_model(num_hidden_layers=2)
    recorder = FocusRecorder((1,))
    ids = torch.tensor([random_ids(40)])
    with scoring_attention(model), torch.set_grad_enabled(gradients):
        model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False, ladm_recorder=recorder)
    q, k, _ = recorder.kept[1]
    assert (q.shape, k.shape) == ((1, 4, 40, 16), (1, 2, 40, 16))
    assert q.requires_grad == gradients
