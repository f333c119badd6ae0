"""The texts that exported code is made of. Names in braces are filled in."""

COMMON = '''
def block_of(name):
    """Return the block of a module or parameter, None if it is in none."""
    for block, (_, members) in BLOCKS.items():
        if any(f"{name}.".startswith(f"{member}.") for member in members):
            return block
    return None


def parameter_groups(model):
    """Freeze what the plan freezes; return parameter groups for an optimizer of the rest."""
    names = dict(model.named_modules(remove_duplicate=False))
    names.update(model.named_parameters(remove_duplicate=False))
    for block, (_, members) in BLOCKS.items():
        for member in members:
            if member not in names:
                raise ValueError(f"The plan's block {block} needs {member}: another network?")
    blocks = {}  # of each parameter; several, if it is tied across blocks
    for name, parameter in model.named_parameters(remove_duplicate=False):
        block = block_of(name)
        blocks.setdefault(parameter, set()).update({block} - {None})
    groups = [
        {"name": block, "lr": lr, "weight_decay": WEIGHT_DECAY, "params": []}
        for block, (lr, _) in BLOCKS.items()
        if lr > 0
    ]
    trained = {group["name"] for group in groups}
    for parameter, held in blocks.items():
        parameter.requires_grad_(bool(held) and held <= trained)
        if parameter.requires_grad:
            group = next(group for group in groups if group["name"] in held)
            group["params"].append(parameter)
    return [group for group in groups if group["params"]]


def frozen_modules(model):
    """Return the modules of frozen blocks: BatchNorm and dropout in them must not train."""
    frozen = {block for block, (lr, _) in BLOCKS.items() if lr == 0}
    return [module for name, module in model.named_modules() if block_of(name) in frozen]
'''

TRAIN_MODE = '''
def train_mode(model):
    """Do what model.train() does, but hold frozen blocks in evaluation mode."""
    model.train()
    for module in frozen_modules(model):
        module.eval()
'''

TORCH_USAGE = """
    model = ...  # {network}
    optimizer = torch.optim.Adam(parameter_groups(model))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max={schedule})
    for epoch in range({epochs}):
        train_mode(model)  # instead of model.train()
        ...  # the steps of one epoch
        schedule.step()
"""

TIMM_IMPORTS = """
import timm
import timm.optim
import timm.scheduler
"""

TIMM_USAGE = """
    model, optimizer, schedule = build()
    for epoch in range({epochs}):
        train_mode(model)  # instead of model.train()
        ...  # the steps of one epoch
        schedule.step(epoch + 1)
"""

TIMM = '''
def build(pretrained=True):
    """Return the network with a new head, its optimizer and its schedule."""
    model = timm.create_model("{name}", pretrained=pretrained{head})
    optimizer = timm.optim.create_optimizer_v2(parameter_groups(model), opt="adam")
    schedule = timm.scheduler.CosineLRScheduler(optimizer, t_initial={schedule})
    return model, optimizer, schedule
'''

LIGHTNING_IMPORTS = """
try:
    from lightning.pytorch import Callback
except ImportError:
    from pytorch_lightning import Callback
import torch
"""

LIGHTNING_USAGE = """
    class Classifier(LightningModule):
        def __init__(self):
            super().__init__()
            self.model = ...  # {network}

        def configure_optimizers(self):
            optimizer = torch.optim.Adam(parameter_groups(self.model))
            schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max={schedule})
            return [optimizer], [schedule]

    Trainer(max_epochs={epochs}, callbacks=[FineTuningPlan()]).fit(Classifier(), ...)
"""

LIGHTNING = '''
class FineTuningPlan(Callback):
    """Freezes blocks, and holds their BatchNorm and dropout in evaluation mode.

    `attribute` is the LightningModule's attribute that holds the network; "" for itself.
    """

    def __init__(self, attribute="model"):
        self.attribute = attribute

    def setup(self, trainer, pl_module, stage):
        parameter_groups(pl_module.get_submodule(self.attribute))

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        # Lightning puts everything in training mode, again after each validation.
        for module in frozen_modules(pl_module.get_submodule(self.attribute)):
            module.eval()
'''

TRANSFORMERS_IMPORTS = """
import torch
from transformers import Trainer
"""

TRANSFORMERS_USAGE = """
    model = ...  # its attribute `PlanTrainer.network` is {network}
    arguments = TrainingArguments(
        num_train_epochs={epochs}, per_device_train_batch_size={batch_size}
    )
    PlanTrainer(model, arguments, train_dataset=...).train()
"""

TRANSFORMERS = '''
class PlanTrainer(Trainer):
    """Trains by the plan, with frozen blocks held in evaluation mode.

    `network` is the model's attribute that holds the network; "" for the model itself.
    """

    network = "{attribute}"

    def create_optimizer(self, *args, **kwargs):
        groups = parameter_groups(self.model.get_submodule(self.network))
        self.optimizer = torch.optim.Adam(groups)
        return self.optimizer

    def create_scheduler(self, num_training_steps, optimizer=None):
        # The search's cosine schedule, a step a batch; it may be longer than the training.
        steps = max(1, round(num_training_steps * {schedule} / {epochs}))
        self.lr_scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, T_max=steps)
        return self.lr_scheduler

    def compute_loss(self, *args, **kwargs):
        # The Trainer has just put everything in training mode.
        for module in frozen_modules(self.model.get_submodule(self.network)):
            module.eval()
        return super().compute_loss(*args, **kwargs)
'''
