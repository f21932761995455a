"""The end of a run: what its folder holds when it is done."""

from pathlib import Path

from peft import PeftModel

from mplug_owl.model.blip2 import save_text_side
from mplug_owl.model.locate import adapter_base
from mplug_owl.model.quantised import unquantise
from mplug_owl.train import card, metrics
from mplug_owl.train.session import Session
from mplug_owl.train.sharded import make_whole
from mplug_owl.writing import writing


def finish(run: Session) -> Path:
    """Write the adapter apart, the whole model with it merged, the curve and the card; returns the model's folder."""
    if run.metrics is not None:
        run.metrics.close()
    run.half.restore()
    make_whole(run.learner, keep=run.is_main)
    if run.is_main:
        if run.recipe.base is not None:
            from mplug_owl.train.run import initial_model  # which imports the loop that ends here

            run.reporter.note(f"what was learned beside {run.recipe.base} weights is merged into the unquantised ones")
            unquantise(run.owl.model, initial_model(run.recipe, run.survey).model)
        _write(run)
    return run.out / "model"


def _write(run: Session) -> None:
    recipe, out, learner = run.recipe, run.out, run.learner
    if isinstance(learner, PeftModel):
        if set(vars(recipe.trainable).values()) <= {"frozen", "lora"}:  # else it would be half of what was learned
            _write_adapter(learner, recipe.init_from, out / "adapter")
        learner.merge_and_unload()  # into the owl's own model
    model = run.owl.model.eval()
    if recipe.objective == "blip2":
        with writing(str(out / "text_side.safetensors")):
            save_text_side(model, out / "text_side.safetensors")
    if recipe.frozen_bf16:
        model.bfloat16()
    with writing(str(out / "model")):
        model.save_pretrained(out / "model")
        run.owl.processor.save_pretrained(out / "model")
        metrics.draw([out], out / "curve.png")
        card.write(out, recipe, run.parts, run.survey.sources)


def _write_adapter(learner: PeftModel, init_from: str | None, folder: Path) -> None:
    """Write what LoRA learned. It names its base so that the adapter can be moved together with it, or opened anywhere."""
    if init_from is not None:
        learner.peft_config["default"].base_model_name_or_path = adapter_base(init_from, folder)
    with writing(str(folder)):
        # Embeddings have no adapters. Left to itself, peft would look for the base from the folder one works in.
        learner.save_pretrained(str(folder), save_embedding_layers=False)
