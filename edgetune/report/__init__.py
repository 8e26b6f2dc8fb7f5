"""What people see of a run: live progress, tables, the picture, the model card, the report page.

Gets values or reads run folders; computes no results. May import every folder from `utils` to `inference`.
"""
