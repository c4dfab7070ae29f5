"""Client of model servers, shared by generators and annotators; not a stage of its own."""
