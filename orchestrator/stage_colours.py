"""What the stages are called and what colour they have wherever time is drawn."""

STAGE_LABELS = {
    "text_encoding": "text encoding",
    "preprocessing": "preprocessing",
    "diffusion": "diffusion",
    "postprocessing": "postprocessing",
}
# Colours that are told apart in light and in dark, with white letters on them.
STAGE_COLOURS = {
    "text_encoding": "#2f8f5b",
    "preprocessing": "#8a7a1f",
    "diffusion": "#3b6fd4",
    "postprocessing": "#c2571a",
}
