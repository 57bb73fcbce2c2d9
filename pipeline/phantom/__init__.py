"""The embedded default data: a CT phantom of the abdomen, drawn patient by patient, then rendered."""
