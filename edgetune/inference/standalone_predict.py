"""Classify texts with `classifier.onnx`: all that a program needs to do so, edgetune itself not among it.

    python predict.py "the battery died in a day"
    python predict.py --pair "first text" "second text"
    python predict.py --model classifier-int8.onnx "the battery died in a day"

Needs numpy, onnxruntime and, where the encoder takes part, tokenizers. `edgetune export` copies this file as
`predict.py`. A program in another language does what `Classifier.inputs` does: lower case, words, token ids.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from edgetune.learners.ngrams.derived_tokens import pair_tokens, word_parts

Text = str | tuple[str, str]


class Classifier:
    """An exported classifier.

    Attributes:
        labels: names of the classes, in the order of the probabilities.
        thresholds: where a text may have several labels, the probabilities from which it has each; else None.
    """

    def __init__(self, folder: str | Path, model: str = "classifier.onnx") -> None:
        """Open a file of the folder that `edgetune export` wrote."""
        self._about = json.loads((Path(folder) / "classifier.json").read_text(encoding="utf-8"))
        self.labels: list[str] = self._about["labels"]
        self.thresholds: list[float] | None = self._about.get("thresholds")
        providers = ["CPUExecutionProvider"]
        self._session = onnxruntime.InferenceSession(str(Path(folder) / model), providers=providers)
        self._names = {one.name for one in self._session.get_inputs()}
        if "input_ids" in self._names:
            from tokenizers import Tokenizer

            self._tokenizer = Tokenizer.from_file(str(Path(folder) / "tokenizer.json"))
            self._tokenizer.enable_truncation(self._about["max_length"])
            self._tokenizer.enable_padding(pad_id=self._about["pad_id"], pad_type_id=0)

    def probabilities(self, texts: Sequence[Text]) -> Any:
        """Return the probabilities (texts, classes) of texts, or of pairs of texts."""
        return self._session.run(["probabilities"], self.inputs(texts))[0]

    def classes(self, probabilities: Any) -> list[int]:
        """Return the classes by their probabilities (classes,): the likeliest, or those above thresholds."""
        if self.thresholds is None:
            return [int(probabilities.argmax())]
        return [int(one) for one in np.flatnonzero(probabilities >= np.array(self.thresholds))]

    def inputs(self, texts: Sequence[Text]) -> dict[str, Any]:
        """Return the inputs of the graph, by name."""
        feed: dict[str, Any] = {}
        if "input_ids" in self._names:
            most = self._about["most_tokenized_chars"]
            found = self._tokenizer.encode_batch([_beginning(text, most) for text in texts])
            feed["input_ids"] = np.array([one.ids for one in found], dtype=np.int64)
            feed["attention_mask"] = np.array([one.attention_mask for one in found], dtype=np.int64)
            feed["token_type_ids"] = np.array([one.type_ids for one in found], dtype=np.int64)
        if "words" in self._names:
            rows = [self.words(text) for text in texts]
            width = max(1, *map(len, rows))
            feed["words"] = np.array([row + [""] * (width - len(row)) for row in rows], dtype=object)
        return {name: value for name, value in feed.items() if name in self._names}

    def words(self, text: Text) -> list[str]:
        """Return what n-grams are made of: words, or characters; what a pair shares; parts of words.

        No n-gram reaches over "".
        """
        most = self._about["most_chars"]
        texts = (text,) if isinstance(text, str) else text
        if self._about["analyzer"] == "char":
            plain = " ".join(" ".join(one[:most] for one in texts).lower().split())
            return list(self._about["around"] + plain + self._about["around"] if plain else "")
        found = [re.findall(self._about["word_pattern"], one[:most].lower()) for one in texts]
        if len(found) == 1 and self._about["analyzer"] == "subword":
            parts = [part for word in found[0] for part in word_parts(word)]
            return [*found[0], *(token for part in parts for token in ("", part))]
        if len(found) == 1:
            return list(found[0])
        first, second = found
        return [*first, "", *second, "", *pair_tokens(first, second)]


def _beginning(text: Text, most: int) -> Text:
    return text[:most] if isinstance(text, str) else (text[0][:most], text[1][:most])


def main() -> None:
    """Print labels and probabilities of every text of the command line; an empty one has none."""
    arguments, model = sys.argv[1:], "classifier.onnx"
    if len(arguments) > 1 and arguments[0] == "--model":
        model, arguments = arguments[1], arguments[2:]
    texts: list[Text] = [*arguments]
    if arguments[:1] == ["--pair"]:
        if len(arguments) % 2 == 0:
            sys.exit(f"--pair takes two texts for each pair, not {len(arguments) - 1} texts.")
        texts = [*zip(arguments[1::2], arguments[2::2], strict=True)]
    if arguments in (["-h"], ["--help"]):
        print(__doc__)
        return
    if not texts:
        sys.exit(__doc__)
    classifier = Classifier(Path(__file__).resolve().parent, model)
    for text, row in zip(texts, classifier.probabilities(texts), strict=True):
        is_empty = not "".join(text).strip()  # as `edgetune predict`: no label
        names = [] if is_empty else [classifier.labels[one] for one in classifier.classes(row)]
        answer = {"label": next(iter(names), None)} if classifier.thresholds is None else {"labels": names}
        shares = [] if is_empty else [*map(float, row)]
        print(json.dumps({"text": text, **answer, "probabilities": shares}))


if __name__ == "__main__":
    main()
