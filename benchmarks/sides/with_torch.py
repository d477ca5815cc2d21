"""PyTorch with pytorch_optimizer: its own layers and its own order of axes, without a compiler."""

from importlib.metadata import version

import pytorch_optimizer
import torch
from torch import nn
from torch.optim import swa_utils

from benchmarks import closed_forms as forms
from benchmarks.closed_forms import AVERAGE_DECAY, BETAS, DECAY, RATE, RHO, SLOW_STEP_SIZE, TRUST
from benchmarks.sides.networks import batch, network, start, sync_period

VERSION = f"pytorch_optimizer {version('pytorch_optimizer')}, PyTorch {torch.__version__}"
SGD, OPTIONS = torch.optim.SGD, {"lr": RATE, "momentum": forms.MOMENTUM}
METHODS = {
    "SGD": lambda params, name: SGD(params, **OPTIONS),
    "Adam": lambda params, name: torch.optim.Adam(params, 0.001),
    "SAM": lambda params, name: pytorch_optimizer.SAM(params, SGD, RHO, **OPTIONS),
    "Lookahead": lambda params, name: pytorch_optimizer.Lookahead(
        SGD(params, **OPTIONS), sync_period(name), SLOW_STEP_SIZE
    ),
    "LAMB": lambda params, name: pytorch_optimizer.Lamb(
        params, RATE, BETAS, DECAY, weight_decouple=False
    ),
    "LARS": lambda params, name: pytorch_optimizer.LARS(
        params, RATE, DECAY, trust_coefficient=TRUST
    ),
    "SWA": lambda params, name: SGD(params, **OPTIONS),
    "EMA": lambda params, name: SGD(params, **OPTIONS),
}
AVERAGES = {
    "SWA": {},
    "EMA": {"multi_avg_fn": swa_utils.get_ema_multi_avg_fn(AVERAGE_DECAY)},
}


class Net(nn.Module):
    """Makes its layers on the first call, and calls them in the same order afterwards."""

    def __init__(self, name, x):
        super().__init__()
        self.name, self.layers, self.making = name, nn.ModuleList(), True
        self(x)
        self.making, self.penalty = False, 0.0
        for layer in self.layers:
            if isinstance(layer, nn.modules.batchnorm._BatchNorm):
                layer.reset_running_stats()

    def forward(self, x):
        self.used, self.penalty = 0, 0.0
        return network(self.name, self, x)

    def layer(self, kind, *arguments, **options):
        if self.making:
            self.layers.append(kind(*arguments, **options))
        self.used += 1
        return self.layers[self.used - 1]

    def dense(self, x, units, bias=True, l2=0.0):
        layer = self.layer(nn.Linear, x.shape[1], units, bias)
        if l2:
            self.penalty = l2 * (layer.weight**2).sum()
        return layer(x)

    def conv(self, x, filters, size, strides):
        return self.layer(nn.Conv2d, x.shape[1], filters, size, strides, size // 2, bias=False)(x)

    def norm(self, x, affine=True):
        kind = nn.BatchNorm2d if x.ndim == 4 else nn.BatchNorm1d
        momentum = 1 - forms.NORM_MOMENTUM
        return self.layer(kind, x.shape[1], forms.NORM_EPSILON, momentum, affine)(x)

    def relu(self, x):
        return torch.relu(x)

    def flatten(self, x):
        return x.flatten(1)

    def pool(self, x):
        return x.mean((2, 3))


def contender(name, method):
    torch.set_num_threads(1)
    torch.manual_seed(0)
    x, y = map(torch.as_tensor, batch(name))
    x = x.permute(0, 3, 1, 2).contiguous() if x.ndim == 4 else x
    model = Net(name, x)
    criterion = nn.functional.mse_loss if start(name) else nn.functional.cross_entropy
    with torch.no_grad():
        for weight, value in zip(model.parameters(), start(name), strict=False):
            weight.copy_(torch.as_tensor(value.T))
    optimizer = METHODS[method](list(model.parameters()), name)
    averaged = swa_utils.AveragedModel(model, **AVERAGES[method]) if method in AVERAGES else None

    def closure():
        value = criterion(model(x), y) + model.penalty
        value.backward()
        return value

    def go():
        optimizer.zero_grad()
        value = closure()
        optimizer.step(closure) if method == "SAM" else optimizer.step()
        if averaged is not None:
            averaged.update_parameters(model)
        return value.item()

    def weights():
        params = (model if averaged is None else averaged).parameters()
        moving = [b for key, b in model.named_buffers() if key.endswith("running_mean")]
        return [p.detach().numpy().T for p in params], moving[:1]

    return go, weights
