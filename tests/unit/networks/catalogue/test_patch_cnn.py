import itertools

import pytest
import torch

from pipeline.networks.catalogue.patch_cnn import PatchCNN


@pytest.mark.parametrize(("dims", "patch"), [(2, (1, 29, 29)), (3, (21, 21, 21))])
def test_a_patch_has_one_label_and_any_number_of_channels(dims, patch):
    network = PatchCNN(3, 4, dims=dims)
    assert network.form.receptive_field == patch
    assert network(torch.randn(2, 3, *patch)).shape == (2, 4, 1, 1, 1)


@pytest.mark.parametrize(("dims", "output"), [(2, (2, 3, 4)), (3, (2, 3, 2))])
def test_dense_and_patch_wise_outputs_agree(dims, output):
    torch.manual_seed(0)
    network = PatchCNN(2, 3, dims=dims, width=0.25).eval()
    image = torch.randn(1, 2, *network.form.input_size(output))
    with torch.no_grad():
        dense = network(image)
        assert dense.shape == (1, 3, *output)
        assert dense.std() > 0
        for place in itertools.product(*map(range, output)):
            box = tuple(
                slice(start, start + edge)
                for start, edge in zip(place, network.form.receptive_field, strict=True)
            )
            one = network.patchwise(image[(slice(None), slice(None), *box)])
            torch.testing.assert_close(
                one[0, :, 0, 0, 0], dense[(0, slice(None), *place)], atol=1e-5, rtol=1e-5
            )


def test_dims_are_two_or_three():
    with pytest.raises(ValueError, match="not 2 or 3"):
        PatchCNN(1, 2, dims=1)
