def draw(story): return ""
