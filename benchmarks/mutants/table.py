"""Single-line mutations of the methods and their training, and the tests that must die with each."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutant:
    """One mutation.

    Attributes:
        name: what is wrong with it.
        file: below ``src/avsl``.
        line: what is replaced; it occurs once in the file.
        by: its replacement.
        tests: files below ``tests``, or tests in them; at least one must fail.
    """

    name: str
    file: str
    line: str
    by: str
    tests: tuple[str, ...]


_MODULE, _OPTIMIZER = "training/test_module.py", "training/test_optimizer.py"
_EMA = f"{_MODULE}::test_teachers_average_their_students_once_the_warm_up_ends"
_MOMENTUM = f"{_MODULE}::test_momentum_encoders_follow_every_student"
_AUGMENTED = f"{_MODULE}::test_every_step_and_view_is_augmented_differently"
_PSEUDO = "functional/test_pseudo_labels.py"
_CURRICULUM = "functional/test_curriculum.py"
_CONTRASTIVE = "functional/test_contrastive.py"
_RECORDINGS = "contract/test_objectives.py"
_SWEEP = "metrics/test_threshold.py"
_AVERAGES = "training/test_averaging.py"
_DMT, _XPL = "frameworks/test_dmt.py", "frameworks/test_xpl.py"

MUTANTS = (
    # What a real training does at each step.
    Mutant(
        "momentum is 1 - m",
        "frameworks/branch.py",
        "ema_update(self.momentum, self.model, self.needs.momentum, buffers=False)",
        "ema_update(self.momentum, self.model, 1 - self.needs.momentum, buffers=False)",
        (f"{_MOMENTUM}[supervised]",),
    ),
    Mutant(
        "momentum encoders in evaluation mode",
        "frameworks/branch.py",
        "targets = [self.momentum(view) for view in views]",
        "targets = [self.momentum.eval()(view) for view in views]",
        (f"{_MOMENTUM}[supervised]",),
    ),
    Mutant(
        "momentum is never updated: self-supervised",
        "frameworks/self_supervised.py",
        "        self.student.after_step()",
        "        pass",
        (f"{_MOMENTUM}[self_supervised]",),
    ),
    Mutant(
        "momentum is never updated: DMT",
        "frameworks/branch.py",
        "        student.after_step()",
        "        pass",
        (f"{_MOMENTUM}[dmt]",),
    ),
    Mutant(
        "the average never starts in a real training",
        "training/module.py",
        "self.framework.after_step(self.step)",
        "self.framework.after_step(0)",
        (f"{_EMA}[mean_teacher]",),
    ),
    Mutant(
        "DMT's teachers are copies",
        "frameworks/branch.py",
        "decay if step >= config.warmup_steps else 0.0",
        "0.0",
        (f"{_EMA}[dmt]",),
    ),
    Mutant(
        "no cosine",
        "training/optimizer.py",
        "return final + (1 - final) * cosine",
        "return 1.0",
        (f"{_OPTIMIZER}::test_the_learning_rate_rises_and_falls_as_a_cosine",),
    ),
    Mutant(
        "no warm-up of the learning rate",
        "training/optimizer.py",
        "return (step + 1) / warmup",
        "return 1.0",
        (f"{_OPTIMIZER}::test_the_learning_rate_rises_and_falls_as_a_cosine",),
    ),
    Mutant(
        "lr_scale is ignored",
        "training/optimizer.py",
        '"lr": trainer.learning_rate * group["lr_scale"]',
        '"lr": trainer.learning_rate',
        (f"{_OPTIMIZER}::test_an_objectives_own_parameters_learn_at_their_own_rate",),
    ),
    Mutant(
        "no weight decay",
        "training/optimizer.py",
        "weight_decay=trainer.weight_decay",
        "weight_decay=0.0",
        (f"{_OPTIMIZER}::test_matrices_decay_and_vectors_do_not",),
    ),
    Mutant(
        "vectors decay too",
        "frameworks/branch.py",
        'groups.append({"params": rest, "lr_scale": lr_scale, "weight_decay": 0.0})',
        'groups.append({"params": rest, "lr_scale": lr_scale})',
        (f"{_OPTIMIZER}::test_matrices_decay_and_vectors_do_not",),
    ),
    Mutant(
        "no clipping",
        "training/module.py",
        "            clip_gradients(self, gradient_clip_val)",
        "            pass",
        (f"{_OPTIMIZER}::test_gradients_are_clipped",),
    ),
    Mutant(
        "one norm for both students",
        "training/optimizer.py",
        "nn.utils.clip_grad_norm_(student.parameters(), max_norm, foreach=True)",
        "nn.utils.clip_grad_norm_(model.parameters(), max_norm, foreach=True)",
        ("training/test_module.py::test_independent_students_are_clipped_apart",),
    ),
    Mutant(
        "the same augmentation at every step",
        "training/module.py",
        "derive_seed(self.config.seed, 2000, rows.step,",
        "derive_seed(self.config.seed, 2000, 0,",
        (_AUGMENTED,),
    ),
    Mutant(
        "the same augmentation for every seed",
        "training/module.py",
        "derive_seed(self.config.seed, 2000, rows.step,",
        "derive_seed(0, 2000, rows.step,",
        (_AUGMENTED,),
    ),
    Mutant(
        "both students with the same weights",
        "build.py",
        "torch.manual_seed(derive_seed(config.seed, k))",
        "torch.manual_seed(derive_seed(config.seed, 0))",
        (f"{_MODULE}::test_students_differ_and_so_do_seeds[dmt]",),
    ),
    Mutant(
        "a weak view cropped like a strong one",
        "data/transforms.py",
        "random_geometry(count, side, config.weak_scale, config.flip, generator)",
        "random_geometry(count, side, config.strong_scale, config.flip, generator)",
        (_AUGMENTED,),
    ),
    Mutant(
        "pseudo-label quality in the wrong geometry",
        "training/means.py",
        "warp(truth.unsqueeze(1), geometry)",
        "truth.unsqueeze(1)",
        ("training/test_means.py::test_pseudo_labels_are_measured_in_the_view_they_were_made_in",),
    ),
    # Objectives.
    Mutant(
        "EZ-VSL in one direction",
        "functional/contrastive.py",
        " + F.cross_entropy(logits.T + weights, target)",
        "",
        ("objectives/test_ezvsl.py",),
    ),
    Mutant(
        "no temperature",
        "functional/contrastive.py",
        "logits, weights = scores / temperature,",
        "logits, weights = scores,",
        ("objectives/test_ezvsl.py",),
    ),
    Mutant(
        "topk is the maximum",
        "functional/contrastive.py",
        "cells.topk(min(topk, cells.shape[-1])",
        "cells.topk(1",
        ("objectives/test_ezvsl.py",),
    ),
    Mutant(
        "rows of one recording are negatives",
        "functional/contrastive.py",
        "weights.masked_fill(same, torch.finfo(like.dtype).min / 4)",
        "weights.clone()",
        (_RECORDINGS,),
    ),
    Mutant(
        "a row that comes twice counts twice",
        "functional/contrastive.py",
        "weights = -same.sum(0).to(like.dtype).log().expand(same.shape)",
        "weights = like.new_zeros(same.shape)",
        (_RECORDINGS,),
    ),
    Mutant(
        "recordings do not reach the objective",
        "frameworks/branch.py",
        "recording=view.recording",
        "recording=None",
        ("frameworks/test_branch.py",),
    ),
    Mutant(
        "foreground is all but the background",
        "functional/contrastive.py",
        "(above > threshold * above.amax",
        "(above < threshold * above.amax",
        ("objectives/test_fnac.py", _CONTRASTIVE),
    ),
    Mutant(
        "FNAC without its warm-up",
        "objectives/fnac.py",
        "if step >= config.warmup_steps:",
        "if True:",
        ("objectives/test_fnac.py",),
    ),
    Mutant(
        "FNAC's true negatives by what looks alike",
        "objectives/fnac.py",
        "tns = relation_gap(heard_alike, sounding_alike,",
        "tns = relation_gap(seen_alike, sounding_alike,",
        ("objectives/test_fnac.py",),
    ),
    Mutant(
        "LVS's own pair stays a negative",
        "objectives/lvs.py",
        "(1 - 100 * torch.eye(",
        "(1 - 0 * torch.eye(",
        ("objectives/test_lvs.py",),
    ),
    Mutant(
        "LVS without its background",
        "objectives/lvs.py",
        "negatives, background.unsqueeze(1)]",
        "negatives, negatives[:, :1]]",
        ("objectives/test_lvs.py",),
    ),
    Mutant(
        "SLAVC against itself",
        "objectives/slavc.py",
        "((online, target), (target, online))",
        "((online, online), (target, online))",
        ("objectives/test_slavc.py",),
    ),
    Mutant(
        "SLAVC's softmaxes exchanged",
        "functional/contrastive.py",
        "+ weights).log_softmax(1)",
        "+ weights).log_softmax(2)",
        ("objectives/test_slavc.py",),
    ),
    Mutant(
        "SSPL without stop-gradient",
        "objectives/sspl.py",
        "F.cosine_similarity(p1, z2.detach(), dim=1)",
        "F.cosine_similarity(p1, z2, dim=1)",
        ("objectives/test_sspl.py",),
    ),
    # Frameworks.
    Mutant(
        "DMT's union in place of the intersection",
        "frameworks/dmt.py",
        '"intersection": first * second',
        '"intersection": torch.maximum(first, second)',
        (_DMT,),
    ),
    Mutant(
        "no consensus filter",
        "functional/pseudo_labels.py",
        "return (agreement >= threshold) & not_empty(first * second), agreement",
        "return not_empty(first * second), agreement",
        (_PSEUDO,),
    ),
    Mutant(
        "disjoint masks agree",
        "functional/pseudo_labels.py",
        "(agreement >= threshold) & not_empty(first * second)",
        "(agreement >= threshold)",
        (_PSEUDO,),
    ),
    Mutant(
        "rejected rows count",
        "frameworks/branch.py",
        "(pixel_bce(logits, target, weight) * accepted).mean()",
        "pixel_bce(logits, target, weight).mean()",
        (_DMT, "frameworks/test_mean_teacher.py"),
    ),
    Mutant(
        "labels stay in the weak view",
        "functional/geometry.py",
        "transferred, seen = warp(layers, relative(source, target)).unbind(1)",
        "transferred, seen = layers.unbind(1)",
        ("functional/test_geometry.py",),
    ),
    Mutant(
        "what the labeler did not see is silence",
        "functional/geometry.py",
        "return transferred / seen.clamp_min(1e-6), seen",
        "return transferred, torch.ones_like(seen)",
        ("functional/test_geometry.py",),
    ),
    Mutant(
        "XPL's peers learn from themselves",
        "frameworks/xpl.py",
        "                labels.reverse()",
        "                pass",
        (_XPL,),
    ),
    Mutant(
        "no curriculum",
        "frameworks/xpl.py",
        "admitted = reliability >= admission_threshold(torch.from_numpy(self.labels.reliability), share)",
        "admitted = reliability >= 0 * share",
        (_XPL,),
    ),
    Mutant(
        "no sharpening",
        "functional/pseudo_labels.py",
        "torch.sigmoid(torch.logit(confidence) / temperature)",
        "torch.sigmoid(torch.logit(confidence))",
        (_PSEUDO,),
    ),
    Mutant(
        "PL-EMA's momentum is 1 - m",
        "functional/pseudo_labels.py",
        "momentum * previous + (1 - momentum) * current",
        "momentum * current + (1 - momentum) * previous",
        (_PSEUDO,),
    ),
    Mutant(
        "the least reliable clips are admitted first",
        "functional/curriculum.py",
        "shared / either.clamp_min(torch.finfo(either.dtype).tiny)",
        "1 - shared / either.clamp_min(torch.finfo(either.dtype).tiny)",
        (_CURRICULUM,),
    ),
    Mutant(
        "the curriculum stands still",
        "functional/curriculum.py",
        "return start + (end - start) * progress",
        "return start",
        (_CURRICULUM,),
    ),
    Mutant(
        "the average forgets",
        "functional/ema.py",
        "get_ema_multi_avg_fn(decay)",
        "get_ema_multi_avg_fn(1 - decay)",
        ("functional/test_ema.py",),
    ),
    Mutant(
        "teachers keep their first statistics",
        "functional/ema.py",
        "if buffers and (averaged := list(teacher.buffers())):",
        "if not buffers and (averaged := list(teacher.buffers())):",
        ("functional/test_ema.py",),
    ),
    Mutant(
        "self-supervised learning moves the calibration",
        "frameworks/self_supervised.py",
        "parameter.requires_grad_(False)",
        "parameter.requires_grad_(True)",
        ("frameworks/test_self_supervised.py",),
    ),
    # What is exported.
    Mutant(
        "exported averages are never updated",
        "training/module.py",
        "        self.exported.update()",
        "        pass",
        (f"{_AVERAGES}::test_students_are_exported_as_their_averages[supervised]",),
    ),
    Mutant(
        "the last weights are exported",
        "training/averaging.py",
        "return [next(averages) if average else model for model, average in self._models]",
        "return [model for model, _ in self._models]",
        (f"{_AVERAGES}::test_students_are_exported_as_their_averages[supervised]",),
    ),
    Mutant(
        "teachers are averaged once more",
        "training/averaging.py",
        "half_life > 0 and any(p.requires_grad for p in model.parameters())",
        "half_life > 0",
        (f"{_AVERAGES}::test_teachers_are_exported_as_they_are",),
    ),
    Mutant(
        "skipped steps reach the averages",
        "training/nonfinite.py",
        'name.startswith(("framework.", "exported."))',
        'name.startswith("framework.")',
        ("training/test_nonfinite.py::test_a_skipped_step_changes_nothing_and_is_counted",),
    ),
    # Hard labels, their warm-up and their weight.
    Mutant(
        "the weight of pseudo-labels is ignored",
        "frameworks/branch.py",
        'terms.append((config.unlabeled_weight, "unlabeled", loss))',
        'terms.append((1.0, "unlabeled", loss))',
        (
            "frameworks/test_pseudo_label.py",
            "frameworks/test_mean_teacher.py",
        ),
    ),
    Mutant(
        "empty pseudo-labels are accepted",
        "frameworks/branch.py",
        "accepted=not_empty(mask)",
        "accepted=not_empty(mask + 1)",
        (
            "frameworks/test_pseudo_label.py",
            "frameworks/test_mean_teacher.py",
        ),
    ),
    Mutant(
        "hard labels without a warm-up",
        "frameworks/branch.py",
        "if step >= config.warmup_steps and views is not None:",
        "if views is not None:",
        ("contract/test_frameworks.py::test_before_the_warm_up_ends_nothing_is_labeled",),
    ),
    Mutant(
        "a mean teacher's student labels itself",
        "frameworks/mean_teacher.py",
        "hard_label_step(self.student, self.teacher, batch",
        "hard_label_step(self.student, self.student.model, batch",
        ("frameworks/test_mean_teacher.py",),
    ),
    Mutant(
        "the first teacher of a pair labels both students",
        "frameworks/mean_teacher_pair.py",
        "hard_label_step(student, teacher, batch",
        "hard_label_step(student, self.pairs[0][1], batch",
        ("frameworks/test_mean_teacher_pair.py",),
    ),
    Mutant(
        "DMT without its warm-up",
        "frameworks/dmt.py",
        "if step >= config.warmup_steps and views is not None:",
        "if views is not None:",
        ("contract/test_frameworks.py::test_before_the_warm_up_ends_nothing_is_labeled",),
    ),
    Mutant(
        "DMT exports its students",
        "frameworks/dmt.py",
        "return [teacher.model for _, teacher in self.pairs]",
        "return [student.model for student, _ in self.pairs]",
        (_DMT,),
    ),
    # Trunks, rows and splits.
    Mutant(
        "trunks learn as fast as the layers on them",
        "training/optimizer.py",
        "(scale if inside else 1.0)",
        "1.0",
        (f"{_OPTIMIZER}::test_trunks_learn_at_their_own_rate",),
    ),
    Mutant(
        "held trunks are trained",
        "training/freezing.py",
        "                parameter.grad = None",
        "                pass",
        (f"{_MODULE}::test_trunks_wait_for_the_steps_that_they_are_frozen_for",),
    ),
    Mutant(
        "steps draw overlapping rows",
        "data/loading.py",
        "endless(labeled, self._seed, step * n_labeled, n_labeled)",
        "endless(labeled, self._seed, step, n_labeled)",
        ("data/test_loading.py",),
    ),
    Mutant(
        "a ratio draws its labeled clips afresh",
        "data/splits.py",
        "_labeling_order(data, annotated, seed)",
        "_labeling_order(data, annotated, seed + wanted)",
        ("data/test_splits.py",),
    ),
    Mutant(
        "labeled clips are unlabeled ones too",
        "data/splits.py",
        "if data.source_ids[row] not in labeled_sources]",
        "]",
        ("data/test_splits.py",),
    ),
    # Thresholds.
    Mutant(
        "a half chooses its own threshold",
        "metrics/threshold.py",
        "self._choose(successes[sounding & (half != side)])",
        "self._choose(successes[sounding & (half == side)])",
        (_SWEEP,),
    ),
    Mutant(
        "the rates are not smoothed",
        "metrics/threshold.py",
        "return torch.exp(-(distance**2) / 2) @ rates",
        "return rates",
        (_SWEEP,),
    ),
    Mutant(
        "a recording lies in both halves",
        "metrics/threshold.py",
        "    return side[of]",
        "    return torch.arange(len(of)) % 2",
        (_SWEEP,),
    ),
)
