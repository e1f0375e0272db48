"""What is read: corpora, vocabularies, the order of the examples, and the batches made of them."""
