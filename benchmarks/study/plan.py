"""What the study trains: every cell by name, and which tables it stands in."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

GROUPS = ("choices", "curve", "objectives", "ablations", "scenes", "causes")
ON_VALIDATION = ("choices", "causes")  # groups that are never scored on test
RATIOS = (0.01, 0.03, 0.1, 0.3, 1.0)
SEEDS = (0, 1, 2)
REPEATED = (0.03, 0.1)  # ratios with all seeds; the others have the first
FRAMEWORKS = ("supervised", "pseudo_label", "mean_teacher", "xpl", "dmt")
OBJECTIVES = ("ezvsl", "lvs", "slavc", "fnac", "sspl")
CHOSEN_AT = 0.03  # at which settings are chosen, on validation alone
SCENES_RATIO = 0.05


@dataclass(frozen=True)
class Cell:
    """One training.

    Attributes:
        group: the part of the study that it was made for; it may stand in other tables too.
        variant: what is trained, named after what sets it apart.
        ratio: labeled share.
        seed: draws the labeled clips, the weights and the data order.
        overrides: the variant's.
        weights_seed: added to the seed of weights and order, the labeled clips staying the same.
        data: ``synthetic`` or ``scenes``.
        trunk: the cell whose image trunk it starts from.
    """

    group: str
    variant: str
    ratio: float
    seed: int
    overrides: tuple[str, ...]
    weights_seed: int = 0
    data: str = "synthetic"
    trunk: str = ""

    @property
    def name(self) -> str:
        """Its key in results.json and on the command line."""
        return f"{self.data}/{self.variant}/{self.ratio:g}/{self.seed}"


def cells() -> list[Cell]:
    """Every cell, the ones that most tables need first."""
    return [*_choices(), *_curve(), *_objectives(), *_ablations(), *_scenes(), *_causes()]


def _choices() -> Iterator[Cell]:
    """The same effort for every framework with pseudo-labels: four settings each, chosen among on validation.

    Start and weight of the pseudo-labels, and the one parameter that is the framework's own. XPL's curriculum ends at
    the same step in all.
    """
    own = {
        "pseudo_label": ("delta", 0.4, 0.25),
        "mean_teacher": ("ema_decay", 0.99, 0.95),
        "xpl": ("temperature", 0.5, 0.75),
        "dmt": ("ema_decay", 0.99, 0.95),
    }
    for framework, (key, usual, other) in own.items():
        for warmup, weight, value in ((150, 1, usual), (300, 1, usual), (150, 1, other), (300, 0.3, usual)):
            settings = {"warmup_steps": warmup, "unlabeled_weight": weight, key: value}
            if framework == "xpl":
                settings["pacing.length"] = 500 - warmup
            overrides = [f"framework.{framework}.{name}={setting}" for name, setting in settings.items()]
            name = f"{framework} from step {warmup}, weight {weight}, {key} {value}"
            yield Cell("choices", name, CHOSEN_AT, SEEDS[0], (f"framework={framework}", *overrides))


def _curve() -> Iterator[Cell]:
    """Frameworks over label ratios, with the controls."""
    for ratio in sorted(RATIOS, key=lambda r: r not in REPEATED):
        for seed in SEEDS if ratio in REPEATED else SEEDS[:1]:
            for framework in FRAMEWORKS:
                yield Cell("curve", framework, ratio, seed, (f"framework={framework}",))
            if ratio in REPEATED:
                # The second of a pair sees the same labels and differs in weights and order alone.
                yield Cell("curve", "mean_teacher-second", ratio, seed, ("framework=mean_teacher",), weights_seed=100)
                labels_only = ("framework=supervised", "framework.supervised.contrastive_weight=0")
                yield Cell("curve", "labels_only", ratio, seed, labels_only)
    for seed in SEEDS:
        yield Cell("curve", "self_supervised", 0.03, seed, ("framework=self_supervised",))


def _objectives() -> Iterator[Cell]:
    """The other axis: each objective alone and under DMT, at 3 %. EZ-VSL's are the curve's."""
    for objective in OBJECTIVES[1:]:
        for framework in ("self_supervised", "dmt"):
            chosen = (f"framework={framework}", f"objective={objective}")
            yield Cell("objectives", f"{framework}+{objective}", 0.03, 0, chosen)


def _ablations() -> Iterator[Cell]:
    """One part left out at a time, at 3 %."""
    dmt, xpl = "framework.dmt", "framework.xpl"
    without = {
        "dmt without filter": ("framework=dmt", f"{dmt}.tau=0"),
        "dmt without IPL, union": ("framework=dmt", f"{dmt}.target=union"),
        "dmt without IPL, A alone": ("framework=dmt", f"{dmt}.target=first"),
        "dmt without EMA": ("framework=dmt", f"{dmt}.ema_decay=0"),
        "dmt without warm-up": ("framework=dmt", f"{dmt}.warmup_steps=0"),
        "dmt without contrastive term": ("framework=dmt", f"{dmt}.contrastive_weight=0"),
        "xpl without sharpening": ("framework=xpl", f"{xpl}.temperature=1"),
        "xpl without PL-EMA": ("framework=xpl", f"{xpl}.label_momentum=0"),
        "xpl without cross": ("framework=xpl", f"{xpl}.cross=false"),
        "xpl without curriculum": ("framework=xpl", f"{xpl}.pacing.start=1", f"{xpl}.pacing.end=1"),
        "fnac without FNS audio": ("framework=self_supervised", "objective=fnac", "objective.fnac.fns_audio_weight=0"),
        "fnac without FNS image": ("framework=self_supervised", "objective=fnac", "objective.fnac.fns_image_weight=0"),
        "fnac without TNS": ("framework=self_supervised", "objective=fnac", "objective.fnac.tns_weight=0"),
        "sspl with PCM": ("framework=self_supervised", "objective=sspl", "model.coding={width: 64}"),
    }
    for seed in SEEDS[:2]:
        for variant, overrides in without.items():
            yield Cell("ablations", variant, 0.03, seed, overrides)
    # What the objectives' ablations are compared with; the first seed is the objectives' own.
    for objective in ("fnac", "sspl"):
        whole = ("framework=self_supervised", f"objective={objective}")
        yield Cell("ablations", f"self_supervised+{objective}", 0.03, SEEDS[1], whole)


def _scenes() -> Iterator[Cell]:
    """Real sounds on real photographs, at 160 px."""
    for framework in (*FRAMEWORKS, "self_supervised"):
        chosen = ("experiment=scenes", f"framework={framework}", "data.vggss.image_size=160")
        yield Cell("scenes", framework, SCENES_RATIO, 0, chosen, data="scenes")


def _causes() -> Iterator[Cell]:
    """Why SSPL alone, and EZ-VSL alone on scenes, are below the centered disc: one circumstance changed at a time."""
    alone = ("framework=self_supervised", "objective=sspl")
    changed = {
        "twice as long": ("trainer.epochs=24",),
        "batches of 256": ("trainer.batch_size=256",),
        "harder views": ("augment.weak_scale=0.5", "augment.strong_scale=0.4", "augment.jitter=0.6"),
        "a tenth of the learning rate": ("trainer.learning_rate=0.0003",),
    }
    for name, overrides in changed.items():
        yield Cell("causes", f"sspl, {name}", 0.03, 0, (*alone, *overrides))
    trunk = "synthetic/self_supervised/0.03/0"
    for name, frozen in (("frozen", "true"), ("trained on", "false")):
        overrides = (*alone, f"model.image.frozen={frozen}")
        yield Cell("causes", f"sspl, image trunk of EZ-VSL, {name}", 0.03, 0, overrides, trunk=trunk)
    longer = ("experiment=scenes", "framework=self_supervised", "data.vggss.image_size=160", "trainer.epochs=36")
    yield Cell("causes", "ezvsl on scenes, 3 times as long", SCENES_RATIO, 0, longer, data="scenes")
