"""One run: settings → data, model, backend, selector → the loop → a run folder and its receipt."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from edgetune.backends.base import Backend
from edgetune.config import (
    DataSettings,
    ModelSettings,
    RunConfig,
    SelectionSettings,
    TrainSettings,
    dump_config,
    make_config,
)
from edgetune.errors import Interrupted, UsageError
from edgetune.history import HistoryWriter, read_history
from edgetune.loop import Counts, Loop, LoopSettings
from edgetune.machine import cache_folder, machine_info, peak_memory_mb, versions
from edgetune.meter import Meter
from edgetune.metrics import Evaluation, t_norm_modelled
from edgetune.prepare import Prepared, prepare
from edgetune.report.live import QuietView, View
from edgetune.result import RunResult
from edgetune.runfolder import RunFolder, disk_errors
from edgetune.saved import evaluate_view
from edgetune.schedule import automatic_lr
from edgetune.selection import make_selector
from edgetune.selection.base import Selector
from edgetune.stopping import StopRequest

SECTIONS: dict[str, type[Any]] = {
    "data": DataSettings,
    "model": ModelSettings,
    "selection": SelectionSettings,
    "train": TrainSettings,
}


def by_section(settings: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Sort flat settings into the config's sections.

    The training file is `train_file` here, since `train` names a section.

    Raises:
        UsageError: there is no such setting.
    """
    sections: dict[str, dict[str, Any]] = {name: {} for name in SECTIONS}
    for name, value in settings.items():
        home = next((key for key, kind in SECTIONS.items() if name in kind.model_fields), None)
        if home is None:
            raise UsageError(f"There is no setting {name!r}; `edgetune finetune --help` lists them.")
        sections[home][name] = value
    return sections


def merged(base: dict[str, Any], over: dict[str, dict[str, Any]]) -> RunConfig:
    """Put settings over those of a config file, section by section."""
    raw = {name: {**base.get(name, {}), **over[name]} for name in SECTIONS}
    unknown = set(base) - set(SECTIONS) - {"schema_version"}
    if unknown:
        raise UsageError(f"The config has unknown sections: {', '.join(sorted(unknown))}.")
    return make_config(raw)


def default_out(train: str) -> Path:
    """Name a run after its data: `runs/reviews` for `data/reviews.csv.gz`."""
    name = train.removeprefix("hub:").rstrip("/\\").replace("\\", "/")
    parts = [part for part in name.split("/") if part not in ("", ".", "..")]
    stem = parts[-1].split(".")[0] if parts else "run"
    if stem in ("train", "data", "training") and len(parts) > 1:
        stem = parts[-2]
    return Path("runs") / (stem or "run").replace(":", "-")


def finetune(
    train: str | Path,
    *,
    out: str | Path | None = None,
    overwrite: bool = False,
    cache_dir: str | Path | None = None,
    **settings: Any,
) -> RunResult:
    """Train a classifier on labelled text; the whole command `edgetune finetune` as one call.

    Args:
        train: file, folder or `hub:NAME`.
        out: run folder; by default `runs/` and the data's name.
        overwrite: replace an earlier run in that folder.
        cache_dir: where artifacts and tokens are kept.
        **settings: any field of the sections in `edgetune.config`, such as `method`, `epochs`, `eval`,
            `text`, `label`, `backend`, `freeze`, `lr`, `seed`.

    Raises:
        EdgetuneError: what is wrong and what to do, in a sentence.
        Interrupted: SIGINT or SIGTERM came; a usable model is in the run folder.
    """
    for name in ("text",):
        if isinstance(settings.get(name), str):
            settings[name] = tuple(settings[name].split(","))
    config = merged(
        {}, by_section({"train": str(train)} | settings) if "train" in settings else _flat(train, settings)
    )
    stop = StopRequest()
    with stop.listening():
        return run(
            config,
            Path(out) if out is not None else default_out(str(train)),
            overwrite=overwrite,
            cache_dir=Path(cache_dir) if cache_dir is not None else cache_folder(),
            meter=Meter(),
            view=QuietView(),
            stop=stop,
        )


def _flat(train: str | Path, settings: dict[str, Any]) -> dict[str, dict[str, Any]]:
    sections = by_section(settings)
    sections["data"]["train"] = str(train)
    return sections


def run(
    config: RunConfig,
    out: Path,
    *,
    overwrite: bool,
    cache_dir: Path,
    meter: Meter,
    view: View,
    stop: StopRequest,
) -> RunResult:
    """Train as configured and leave a run folder.

    Raises:
        EdgetuneError: nothing was written, or what was written is whole.
        Interrupted: after a usable model was saved.
    """
    folder = RunFolder(out, overwrite)
    with disk_errors(out):
        prepared = prepare(config, cache_dir, meter, view.say)
        for warning in prepared.warnings:
            view.warn(warning)
        config = resolved(config, prepared)
        folder.create()
        folder.write_text("config.toml", dump_config(config))
        if prepared.n_bad:
            folder.append_bad_rows(prepared.bad_rows_files)
            where = out / "bad_rows.jsonl"
            view.warn(f"{prepared.n_bad:,} unusable rows were left out; they are listed in {where}.")
        with meter.phase("other"):
            return _Training(config, prepared, folder, meter, view, stop).run()


def resolved(config: RunConfig, prepared: Prepared) -> RunConfig:
    """Fill in what was decided: backend, learning rate, length limit, freezing."""
    train = config.train
    if train.lr is None:
        n_steps = train.epochs * -(-len(prepared.train) // train.batch_size)
        n_steps = min(n_steps, train.max_steps or n_steps)
        train = train.model_copy(update={"lr": automatic_lr(prepared.hidden_size, n_steps)})
    model = config.model.model_copy(update={"backend": prepared.backend.name, "freeze": prepared.freeze})
    data = config.data.model_copy(update={"max_length": prepared.max_length})
    return config.model_copy(update={"train": train, "model": model, "data": data})


class _Training:
    """The part of a run in which the model changes."""

    def __init__(
        self,
        config: RunConfig,
        prepared: Prepared,
        folder: RunFolder,
        meter: Meter,
        view: View,
        stop: StopRequest,
    ) -> None:
        self._config, self._prepared, self._folder = config, prepared, folder
        self._meter, self._view, self._stop = meter, view, stop
        self._backend: Backend = prepared.backend
        self._best: Evaluation | None = None
        self._best_epoch: int | None = None

    def run(self) -> RunResult:
        """Train all epochs, keep the best, and write the receipt."""
        config, seed = self._config, self._config.train.seed
        selector = make_selector(
            config.selection,
            n_examples=len(self._prepared.train),
            n_classes=len(self._prepared.label_names),
            vocab_size=self._prepared.vocab_size,
            rng=np.random.default_rng([seed, 3]),
        )
        with HistoryWriter(self._folder.path / "history.jsonl") as history, self._stop.gently():
            loop = self._make_loop(selector, history)
            self._view.begin(self._prepared, config)
            for epoch in range(1, config.train.epochs + 1):
                loop.run_epoch(epoch)
                if loop.stopped:
                    break
                self._end_epoch(epoch, history)
                if loop.finished:
                    break
            self._view.end()
        if loop.stopped:
            self._save_interrupted()
        result = self._write_receipt(loop, selector)
        if loop.stopped:
            raise self._interrupted(loop.counts)
        return result

    def _make_loop(self, selector: Selector, history: HistoryWriter) -> Loop:
        train = self._config.train
        assert train.lr is not None
        settings = LoopSettings(train.lr, train.epochs, train.batch_size, train.decay, train.max_steps)
        loop = Loop(
            backend=self._backend,
            selector=selector,
            source=self._prepared.train,
            settings=settings,
            meter=self._meter,
            history=history,
            rng=np.random.default_rng([train.seed, 2]),
            should_stop=self._stop,
        )
        loop.on_progress = lambda counts, loss: self._view.progress(
            loop.progress, counts, loss, selector.stage, self._meter.elapsed_s()
        )
        return loop

    def _end_epoch(self, epoch: int, history: HistoryWriter) -> None:
        """Evaluate; save the model when it is the best so far."""
        with self._meter.phase("evaluate"):
            self._view.say(f"Evaluating {len(self._prepared.evaluation):,} rows")
            found = evaluate_view(self._backend.score, self._prepared.evaluation)
        history.append(
            kind="eval",
            t_s=self._meter.elapsed_s(),
            epoch=epoch,
            accuracy=found.accuracy,
            macro_f1=found.macro_f1,
            loss=found.loss,
            n=found.n,
        )
        self._view.evaluated(epoch, found)
        if self._best is None or found.accuracy > self._best.accuracy:
            self._best, self._best_epoch = found, epoch
            self._save()
            self._folder.write_json("metrics.json", found.to_dict())

    def _save(self, under: str = "") -> None:
        def write(scratch: Path) -> None:
            self._backend.save(scratch, self._prepared.label_names)
            for name in ("model", "onnx"):
                _set_max_length(scratch / name, self._config.data.max_length)

        with self._meter.phase("save"):
            self._view.say("Saving the model")
            self._folder.save_model(write, under)

    def _save_interrupted(self) -> None:
        """Keep the newest weights, beside the best evaluated ones if there are any."""
        self._save("interrupted" if self._best is not None else "")

    def _interrupted(self, counts: Counts) -> Interrupted:
        where = self._folder.path / ("interrupted/model" if self._best is not None else "model")
        return Interrupted(
            f"Stopped after {counts.n_steps:,} steps; the model so far is in {where}. To go on from it: "
            f"edgetune finetune {self._config.data.train} --model {where} --out {self._folder.path}-2"
        )

    def _write_receipt(self, loop: Loop, selector: Selector) -> RunResult:
        """Draw the run, write the model card and the summary."""
        from edgetune.report.model_card import model_card
        from edgetune.report.plots import draw_run

        out = self._folder.path
        with self._meter.phase("save"):
            draft = self._summary(loop, selector).to_dict()
            draw_run(read_history(out / "history.jsonl"), draft, out / "run.png")
            card = model_card(draft)
            for home in (out, out / "interrupted"):
                if (home / "model").is_dir():
                    (home / "model" / "README.md").write_text(card, encoding="utf-8")
        result = self._summary(loop, selector)
        self._folder.write_json("summary.json", result.to_dict())
        return result

    def _summary(self, loop: Loop, selector: Selector) -> RunResult:
        config, prepared, best = self._config, self._prepared, self._best
        split, report = self._meter.split_s(), selector.report()
        evaluation = best.to_dict() if best is not None else {}
        train = config.train
        assert train.lr is not None
        return RunResult(
            method=config.selection.method,
            preset=config.selection.preset,
            backend=self._backend.name,
            model=prepared.model_name,
            dataset=config.data.train,
            label_names=list(prepared.label_names),
            accuracy=best.accuracy if best else None,
            accuracy_interval=best.interval if best else None,
            macro_f1=best.macro_f1 if best else None,
            mcc=best.mcc if best else None,
            eval_loss=best.loss if best else None,
            n_eval=best.n if best else len(prepared.evaluation),
            eval_source=prepared.eval_source,
            elapsed_s=sum(split.values()),
            time_split_s=split,
            n_train=len(prepared.train),
            n_bad_rows=prepared.n_bad,
            stages=[dataclasses.asdict(change) for change in selector.stages],
            threshold=report.get("threshold"),
            selection=report,
            peak_memory_mb=peak_memory_mb(),
            run_dir=str(self._folder.path),
            epochs=train.epochs,
            best_epoch=self._best_epoch,
            best_epoch_chosen_on_eval=train.epochs > 1,
            batch_size=train.batch_size,
            lr=train.lr,
            seed=train.seed,
            freeze=prepared.freeze,
            max_length=prepared.max_length,
            n_parameters_trained=self._backend.n_parameters,
            interrupted=loop.stopped,
            per_class=evaluation.get("per_class", []),
            confusion=evaluation.get("confusion", []),
            warnings=list(prepared.warnings),
            machine=machine_info(),
            versions=versions(),
            **costs(loop.counts, split),
        )


def costs(counts: Counts, split_s: dict[str, float]) -> dict[str, Any]:
    """Derive skip shares and normalised times from counts and measured seconds."""
    seen = max(1, counts.n_seen)
    a_b, a_fb = counts.n_skipped_backward / seen, counts.n_skipped_both / seen
    score_s = split_s["score"] / counts.n_scored if counts.n_scored else None
    train_s = split_s["train"] / counts.n_trained if counts.n_trained else None
    plain_s = counts.train_s_warmup / counts.n_trained_warmup if counts.n_trained_warmup else None
    modelled = measured = None
    if plain_s is not None:
        forward_s = score_s if score_s is not None else 0.0
        modelled = t_norm_modelled(a_b, a_fb, forward_s, max(plain_s - forward_s, 0.0)) if a_b + a_fb else 1.0
        spent = split_s["score"] + split_s["train"] + split_s["select"]
        measured = spent / (seen * plain_s)
    return {
        "n_seen": counts.n_seen,
        "n_scored": counts.n_scored,
        "n_trained": counts.n_trained,
        "n_steps": counts.n_steps,
        "skipped_backward_rate": a_b,
        "skipped_both_rate": a_fb,
        "t_norm_modelled": modelled,
        "t_norm_measured": measured,
        "score_ms_per_example": None if score_s is None else 1e3 * score_s,
        "train_ms_per_example": None if train_s is None else 1e3 * train_s,
        "first_step_s": counts.first_step_s,
    }


def _set_max_length(folder: Path, max_length: int) -> None:
    """Tell other libraries' tokenizers where training cut texts."""
    path = folder / "tokenizer_config.json"
    if path.is_file():
        config = json.loads(path.read_text(encoding="utf-8"))
        config["model_max_length"] = max_length
        path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
