"""The whole answer of a run as one ONNX graph: encoder, n-grams, weights and temperature.

    input_ids, attention_mask, token_type_ids ─→ encoder ─→ log-softmax ─┐
                                                                         ├─→ weighted sum ─→ probabilities
    words ─→ numbers ─→ n-grams ─→ TF-IDF ─→ linear scores ─→ log-softmax ┘

Where a text may have several labels, the scores themselves are summed: each is the log-odds of a label.

Only operators of ONNX itself (domains ai.onnx and ai.onnx.ml) are added to the encoder's. `words` are
strings, (texts, words), filled up with ""; `standalone_predict.py` says how to split a text into them.

N-grams are looked up by `LabelEncoder`, a hash table, in place of `TfIdfVectorizer`: that operator returns a
dense row over the vocabulary, which takes 1.4 ms a text with 450,000 n-grams (Zen 3), the tables 0.02 ms.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgetune.backends.onnx_export import IR_VERSION, OPSET
from edgetune.inference.saved_ensemble import ENCODER, NGRAMS
from edgetune.inference.saved_run import Run
from edgetune.learners.ensemble import FLOOR
from edgetune.learners.ngrams.learner import NEVER_SEEN, Ngrams
from edgetune.learners.ngrams.reading import LONGEST, tokens_of
from edgetune.run_files.run_folder import damage_errors
from edgetune.utils.errors import ModelError, requires_extra
from edgetune.utils.types import IntArray

with requires_extra("cpu", "exporting"):
    import onnx

ML_OPSET = 3
LOGITS, PROBABILITIES, WORDS = "logits", "probabilities", "words"
_ML = "ai.onnx.ml"


def write_classifier(run: Run, encoder: Path | None, target: Path) -> None:
    """Write a run's whole answer, with its encoder as an ONNX file; None where that takes no part.

    Raises:
        RunError: the encoder's file is damaged.
        ModelError: the graph is too large for a file.
    """
    if encoder is None:
        model = _answer(run, OPSET, IR_VERSION)
    else:
        with damage_errors(encoder):
            model = onnx.load(encoder)
        _extend(model, _answer(run, _own_opset(model), model.ir_version))
    try:
        onnx.save(model, target)
    except ValueError as error:  # protobuf's limit
        raise ModelError("The classifier is larger than the 2 GiB that one ONNX file can hold.") from error


def _extend(encoder: Any, answer: Any) -> None:
    """Add the graph of the answer to the encoder's.

    `onnx.compose.merge_models` does the same and checks the result, but its check refuses DeBERTa, whose
    branches read values that are computed further down.
    """
    graph = encoder.graph
    graph.node.extend(answer.graph.node)
    graph.initializer.extend(answer.graph.initializer)
    graph.input.extend(one for one in answer.graph.input if one.name != LOGITS)
    del graph.output[:]
    graph.output.extend(answer.graph.output)
    known = {one.domain for one in encoder.opset_import}
    encoder.opset_import.extend(one for one in answer.opset_import if one.domain not in known)


def _own_opset(encoder: Any) -> int:
    """Drop the operator sets that no node of the encoder uses; return the version of ONNX's own.

    ONNX Runtime's training build declares all that it knows, in versions that other runtimes may not know.
    """
    used = {node.domain for node in encoder.graph.node} | {""}
    kept = [one for one in encoder.opset_import if one.domain in used]
    del encoder.opset_import[:]
    encoder.opset_import.extend(kept)
    return int(next(one.version for one in kept if not one.domain))


def _answer(run: Run, opset: int, ir_version: int) -> Any:
    """Return the graph from `logits` and `words`, as far as they take part, to `probabilities`."""
    saved, n_classes, multi_label = run.ensemble, len(run.label_names), run.multi_label
    graph, inputs = _Graph(), []
    answers: dict[str, str] = {}  # log-probabilities, or log-odds of several labels
    names = (ENCODER,) if saved is None else saved.ensemble.names
    info, types = onnx.helper.make_tensor_value_info, onnx.TensorProto
    if ENCODER in names:
        inputs.append(info(LOGITS, types.FLOAT, ["batch_size", n_classes]))
        answers[ENCODER] = LOGITS if multi_label else graph.add("LogSoftmax", LOGITS, axis=1)
    if saved is not None and NGRAMS in names:
        inputs.append(info(WORDS, types.STRING, ["batch_size", "n_words"]))
        answers[NGRAMS] = _ngram_answer(graph, saved.ngrams)
    if saved is None:
        pooled = answers[ENCODER]
    else:
        floor, ceiling = (graph.constant(np.float32(limit)) for limit in (FLOOR, -FLOOR))
        terms = [
            graph.add(
                "Mul",
                graph.add("Clip", answers[name], floor, ceiling),
                graph.constant(np.float32(weight)),
            )
            for name, weight in zip(names, saved.ensemble.weights, strict=True)
        ]
        if saved.ensemble.bias:
            terms.append(graph.constant(np.array([saved.ensemble.bias], dtype=np.float32)))
        pooled = graph.add("Sum", *terms)
    if multi_label:
        graph.add("Sigmoid", pooled, outputs=[PROBABILITIES])
    else:
        graph.add("Softmax", pooled, axis=1, outputs=[PROBABILITIES])
    made = onnx.helper.make_graph(
        graph.nodes,
        "answer",
        inputs,
        [info(PROBABILITIES, types.FLOAT, ["batch_size", n_classes])],
        graph.constants,
    )
    opsets = [onnx.helper.make_opsetid("", opset), onnx.helper.make_opsetid(_ML, ML_OPSET)]
    return onnx.helper.make_model(made, opset_imports=opsets, ir_version=ir_version, producer_name="edgetune")


def _ngram_answer(graph: _Graph, ngrams: Ngrams) -> str:
    """Add what `Ngrams.log_proba` computes; return the name of the log-probabilities or log-odds (N, C)."""
    n_features, n_seen = len(ngrams.vocabulary), len(ngrams.seen)
    # One more feature, of no weight, stands for all n-grams that are not in the vocabulary.
    idf = np.append(ngrams.idf, np.float32(0))
    weights = np.concatenate([ngrams.scores.weights, np.zeros((1, n_seen), dtype=np.float32)])
    features = _features(graph, ngrams, n_features)
    one, size = graph.constant(np.array([1])), graph.constant(np.array(n_features + 1))
    n_texts = graph.add("Shape", WORDS, start=0, end=1)
    start, step = graph.constant(np.array(0)), graph.constant(np.array(1))
    numbers = graph.add("Range", start, graph.add("Squeeze", n_texts), step)
    keys = graph.add("Add", graph.add("Mul", graph.add("Unsqueeze", numbers, one), size), features)
    # Every pair of text and feature once, and how often it occurs.
    pairs, _, _, counts = graph.add_many("Unique", 4, keys, sorted=1)
    rows, columns = graph.add("Div", pairs, size), graph.add("Mod", pairs, size)
    frequency = graph.add("Cast", counts, to=onnx.TensorProto.FLOAT)
    sublinear = graph.add("Add", graph.add("Log", frequency), graph.constant(np.float32(1)))
    values = graph.add("Mul", sublinear, graph.add("Gather", graph.constant(idf), columns))
    square = graph.add("Mul", values, values)
    zero = onnx.numpy_helper.from_array(np.zeros(1, dtype=np.float32))
    empty = graph.add("ConstantOfShape", n_texts, value=zero)
    squares = graph.add("ScatterElements", empty, rows, square, reduction="add")
    # A text with any known n-gram has a sum above 1, as an idf is at least 1.
    norms = graph.add("Sqrt", graph.add("Max", squares, graph.constant(np.float32(1))))
    weighted = graph.add(
        "Mul", graph.add("Unsqueeze", values, one), graph.add("Gather", graph.constant(weights), columns)
    )
    shape = graph.add("Concat", n_texts, graph.constant(np.array([n_seen])), axis=0)
    everywhere = graph.add("Expand", graph.add("Unsqueeze", rows, one), graph.add("Shape", weighted))
    nothing = graph.add("ConstantOfShape", shape, value=zero)
    sums = graph.add("ScatterElements", nothing, everywhere, weighted, axis=0, reduction="add")
    scores = graph.add(
        "Add",
        graph.add("Div", sums, graph.add("Unsqueeze", norms, one)),
        graph.constant(ngrams.scores.intercept[None]),
    )
    if not (ngrams.multi_label or ngrams.by_softmax):  # the logarithm of sigmoids
        scores = graph.add("Neg", graph.add("Softplus", graph.add("Neg", scores)))
    answer = scores if ngrams.multi_label else graph.add("LogSoftmax", scores, axis=1)
    if n_seen == ngrams.n_classes:
        return answer
    places: IntArray = np.full(ngrams.n_classes, n_seen, dtype=np.int64)
    places[ngrams.seen] = np.arange(n_seen)
    never = graph.add(
        "Pad", answer, graph.constant(np.array([0, 0, 0, 1])), graph.constant(np.float32(NEVER_SEEN))
    )
    return graph.add("Gather", never, graph.constant(places), axis=1)


def _features(graph: _Graph, ngrams: Ngrams, unknown: int) -> str:
    """Add the look-up of n-grams; return the name of the features (N, places), `unknown` where there is none.

    Words get numbers from 1; 0 is a word that is in no n-gram. The number of an n-gram has those of its words
    for digits, so that one with an unknown word is in no table.
    """
    tokens = [tokens_of(ngram, ngrams.analyzer) for ngram in ngrams.vocabulary.ngrams]
    known = list(dict.fromkeys(token for parts in tokens for token in parts)) or [""]
    numbers = {token: number for number, token in enumerate(known, 1)}
    base = len(known) + 1
    first = keys = graph.lookup(WORDS, known, range(1, base), 0)
    digit = graph.constant(np.array(base))
    begin, end, columns = (graph.constant(np.array([at])) for at in (0, -1, 1))
    last = graph.constant(np.array([np.iinfo(np.int64).max]))
    found = []
    for n in range(1, LONGEST[ngrams.analyzer] + 1):
        if n > 1:
            before = graph.add("Slice", keys, begin, end, columns)
            following = graph.add("Slice", first, graph.constant(np.array([n - 1])), last, columns)
            keys = graph.add("Add", graph.add("Mul", before, digit), following)
        table = {_number(parts, numbers, base): at for at, parts in enumerate(tokens) if len(parts) == n}
        if table or n == 1:
            found.append(graph.lookup(keys, list(table) or [0], list(table.values()) or [unknown], unknown))
    return graph.add("Concat", *found, axis=1)


def _number(parts: Sequence[str], numbers: dict[str, int], base: int) -> int:
    number = 0
    for part in parts:
        number = number * base + numbers[part]
    return number


class _Graph:
    """Nodes and constants, which get names in the order in which they are added."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """Add a node with one output; return its name."""
        return self.add_many(operator, 1, *inputs, **attributes)[0]

    def add_many(
        self, operator: str, n_outputs: int, *inputs: str, outputs: list[str] | None = None, **attributes: Any
    ) -> list[str]:
        """Add a node; return the names of its outputs."""
        name = f"answer/{operator}_{len(self.nodes)}"
        outputs = [f"{name}:{n}" for n in range(n_outputs)] if outputs is None else outputs
        self.nodes.append(onnx.helper.make_node(operator, inputs, outputs, name, **attributes))
        return outputs

    def constant(self, value: Any) -> str:
        """Add a constant; return its name."""
        name = f"answer/constant_{len(self.constants)}"
        self.constants.append(onnx.numpy_helper.from_array(np.asarray(value), name))
        return name

    def lookup(self, keys: str, known: Sequence[Any], values: Sequence[int], default: int) -> str:
        """Add a table from strings or numbers to numbers; return the name of what is found."""
        of_strings = {"keys_strings": known} if isinstance(known[0], str) else {"keys_int64s": known}
        table = {"values_int64s": list(values), "default_int64": default}
        return self.add("LabelEncoder", keys, domain=_ML, **of_strings, **table)
