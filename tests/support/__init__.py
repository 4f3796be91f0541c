"""Code that several test modules share: doubles, small models and batches, processes under test. No test lives here."""
