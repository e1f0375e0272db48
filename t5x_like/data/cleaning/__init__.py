"""Cleaning a corpus: stages that drop or edit documents, put one after the other, with counts of what each did."""
