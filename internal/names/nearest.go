package names

// Nearest returns the one of a list that a typing slip turns into word, or "".
func Nearest(word string, list []string) string {
	best, bestDistance := "", len(word)/3+1
	for _, n := range list {
		if d := distance(word, n); d <= bestDistance && d < len(n) {
			best, bestDistance = n, d-1
		}
	}
	return best
}

// distance counts the letters to insert, remove or replace between a and b.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j+1]+1, row[j]+1)
		}
	}
	return row[len(b)]
}
