import pytest
import torch

from xreal.masks.residual_unet import ResidualUNet


@pytest.mark.parametrize(("channels", "units"), [((4, 8), 1), ((4, 8, 12), 2)])
def test_it_is_monais_network(channels: tuple[int, ...], units: int) -> None:
    from monai.networks.nets.unet import UNet

    torch.manual_seed(0)
    own = ResidualUNet(1, 4, channels, units)
    torch.manual_seed(0)
    theirs = UNet(2, 1, 4, channels, (2,) * (len(channels) - 1), num_res_units=units, norm="INSTANCE")
    weights = theirs.state_dict()
    assert list(own.state_dict()) == list(weights)
    assert all(torch.equal(value, weights[key]) for key, value in own.state_dict().items())
    image = torch.rand(2, 1, 32, 32)
    assert torch.equal(own(image), theirs(image))
