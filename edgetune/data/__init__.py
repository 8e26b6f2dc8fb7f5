"""Labelled text in, token batches out; nothing here knows of models or training.

path ─→ readers ─→ Table ─→ columns ─→ dataset (Example, BadRow) ─→ tokens (memory-mapped cache)

textio      opens, unpacks and decodes           dialect, records, delimited   CSV, TSV and the like
jsonrows    JSON lines and JSON                  tables, hub, folders          Arrow, the hub, .txt files
token_*     the cache's layout, builder, store   quality, holdout              warnings, evaluation rows
"""
