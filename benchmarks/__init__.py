"""What a hit and a miss cost, beside what people use today; README.md says what is measured how."""
