"""The rival's script as most people write it: AutoModel, datasets, Trainer with its defaults, save.

Usage: hf_trainer.py DATA OUT BATCH_SIZE
"""

from __future__ import annotations

import sys

from datasets import Dataset
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
)

from edgetune.data.examples import DataOptions, read_examples
from edgetune.models.source import built_in_folder


def main(data: str, out: str, batch_size: int) -> None:
    folder = built_in_folder()
    examples = [(item.text, item.label) for item in read_examples(data, DataOptions(), lambda row: None)]
    names = sorted({label for _, label in examples})
    rows = Dataset.from_dict(
        {"text": [text for text, _ in examples], "label": [names.index(label) for _, label in examples]}
    )
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=len(names))
    rows = rows.map(lambda batch: tokenizer(batch["text"], truncation=True, max_length=128), batched=True)
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=out, num_train_epochs=1, per_device_train_batch_size=batch_size, report_to="none"
        ),
        train_dataset=rows,
        data_collator=DataCollatorWithPadding(tokenizer),
    )
    trainer.train()
    trainer.save_model(out)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
