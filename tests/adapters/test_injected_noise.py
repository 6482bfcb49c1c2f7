"""The noise of calibration: its size is a share of each token's own norm."""

import pytest
import torch

from fedapp.adapters.context.injection import Injected, SiteHooks, add_noise, prepare

WIDTH = 20_000


def states():
    """Two rows of two tokens, whose norms are 1, 10, 100 and 1000."""
    norms = torch.tensor([[1.0, 10.0], [100.0, 1000.0]])
    return torch.nn.functional.normalize(torch.ones(2, 2, WIDTH), dim=-1) * norms.unsqueeze(-1), norms


@pytest.mark.parametrize("share", [0.001, 0.5])
def test_noise_is_a_share_of_each_tokens_norm(share):
    hidden, norms = states()
    torch.manual_seed(0)
    added = add_noise(hidden.clone(), share) - hidden
    torch.testing.assert_close(added.std(-1), share * norms, rtol=0.03, atol=0)
    assert (added.mean(-1).abs() < 0.03 * share * norms).all()


@pytest.mark.parametrize("form", ["linear", "add", "balance"])
def test_every_form_passes_the_share_on(form):
    coefficients = torch.zeros(1, 2, 1 if form == "add" else 2)
    assert prepare(form, coefficients, torch.zeros(1, 2, 4), noise=0.25).noise == 0.25


def test_a_module_that_is_hooked_gets_noise_of_that_share_where_gradients_are_wanted():
    module = torch.nn.Identity()
    hooks = SiteHooks([(module, torch.nn.Identity())])
    hidden, norms = states()
    with hooks.armed(Injected(torch.zeros(1, 2, WIDTH, requires_grad=True), None, noise=0.25)):
        torch.manual_seed(0)
        added = (module(hidden) - hidden).detach()
        with torch.no_grad():
            assert torch.equal(module(hidden), hidden)
    torch.testing.assert_close(added.std(-1), 0.25 * norms, rtol=0.03, atol=0)
    assert torch.equal(module(hidden), hidden)
