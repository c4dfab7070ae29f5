"""Code shared by the vision-language models: checkpoint files, chat template, images, small sizes, processor lock."""
