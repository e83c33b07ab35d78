"""The optimizers a phase may use. Names and options are those of `keras.optimizers`."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from app.domain.base import Value

Rate = Annotated[float, Field(gt=0, le=100)]
Beta = Annotated[float, Field(ge=0, lt=1)]


class _Optimizer(Value):
    """Options that all optimizers share."""

    learning_rate: Rate = Field(examples=[0.01])
    """How far each step goes."""
    weight_decay: float | None = Field(default=None, ge=0, le=10, description="Decoupled weight decay; `null`: none.")
    clipnorm: float | None = Field(default=None, gt=0, description="Clip each gradient to this norm.")
    clipvalue: float | None = Field(default=None, gt=0, description="Clip each gradient's values to ± this.")
    global_clipnorm: float | None = Field(default=None, gt=0, description="Clip all gradients together to this norm.")

    @model_validator(mode="after")
    def _one_clipping(self) -> "_Optimizer":
        given = [name for name in ("clipnorm", "clipvalue", "global_clipnorm") if getattr(self, name) is not None]
        if len(given) > 1:
            message = f"Give at most one of clipnorm, clipvalue, global_clipnorm; received {', '.join(given)}"
            raise ValueError(message)
        return self


class Sgd(_Optimizer):
    """Stochastic gradient descent."""

    type: Literal["sgd"]
    """Names the optimizer."""
    momentum: Beta = 0.0
    """How much of the step before goes into the next."""
    nesterov: bool = False
    """Whether momentum looks ahead (Nesterov, 1983)."""


class Adam(_Optimizer):
    """Adam (Kingma and Ba, 2014)."""

    type: Literal["adam"]
    """Names the optimizer."""
    beta_1: Beta = 0.9
    """Decay of the mean of the gradients."""
    beta_2: Beta = 0.999
    """Decay of the mean of their squares."""
    epsilon: float = Field(default=1e-7, gt=0)
    """Keeps the division from blowing up."""
    amsgrad: bool = False
    """Whether the largest mean of squares so far counts (Reddi et al., 2018)."""


class AdamW(_Optimizer):
    """Adam with decoupled weight decay (Loshchilov and Hutter, 2017)."""

    type: Literal["adamw"]
    """Names the optimizer."""
    weight_decay: float | None = Field(default=0.004, ge=0, le=10)
    """Decoupled weight decay."""
    beta_1: Beta = 0.9
    """Decay of the mean of the gradients."""
    beta_2: Beta = 0.999
    """Decay of the mean of their squares."""
    epsilon: float = Field(default=1e-7, gt=0)
    """Keeps the division from blowing up."""
    amsgrad: bool = False
    """Whether the largest mean of squares so far counts (Reddi et al., 2018)."""


class RmsProp(_Optimizer):
    """RMSprop (Hinton, 2012)."""

    type: Literal["rmsprop"]
    """Names the optimizer."""
    rho: Beta = 0.9
    """Decay of the mean of the squared gradients."""
    momentum: Beta = 0.0
    """How much of the step before goes into the next."""
    epsilon: float = Field(default=1e-7, gt=0)
    """Keeps the division from blowing up."""
    centered: bool = False
    """Whether the gradients are normalized by their estimated variance."""


class Nadam(_Optimizer):
    """Adam with Nesterov momentum (Dozat, 2015)."""

    type: Literal["nadam"]
    """Names the optimizer."""
    beta_1: Beta = 0.9
    """Decay of the mean of the gradients."""
    beta_2: Beta = 0.999
    """Decay of the mean of their squares."""
    epsilon: float = Field(default=1e-7, gt=0)
    """Keeps the division from blowing up."""


class Adagrad(_Optimizer):
    """Adagrad (Duchi et al., 2011)."""

    type: Literal["adagrad"]
    """Names the optimizer."""
    initial_accumulator_value: float = Field(default=0.1, ge=0)
    """Where the sums of squared gradients start."""
    epsilon: float = Field(default=1e-7, gt=0)
    """Keeps the division from blowing up."""


Optimizer = Annotated[Sgd | Adam | AdamW | RmsProp | Nadam | Adagrad, Field(discriminator="type")]
