def add_to(add):
    pass
