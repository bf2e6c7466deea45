"""LADM scores of documents: [`LadmScorer`]."""
