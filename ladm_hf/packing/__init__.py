"""Selected documents into sequences of one length to train on, mixed with short documents, in the files of trainers."""
