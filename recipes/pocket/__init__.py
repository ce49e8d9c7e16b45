"""The recipe of the model in the wheel: icons, emoji and clip art."""
