"""What a run shows: live progress, closing tables, the picture, the model card."""
