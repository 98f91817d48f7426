"""Results as a page to look through, and images sorted into folders by class."""
