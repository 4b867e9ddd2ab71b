"""Values only: what the stages of the pipeline pass on. Imports nothing of ours."""
