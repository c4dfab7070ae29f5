"""What vision-language models share: checkpoint files, chat template, pictures, small sizes, and the processor lock."""
