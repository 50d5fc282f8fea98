"""`ordergrad score`: reward logs of any size, read in a stream.

In the order of a log on its way to a page:

| module | does |
|---|---|
| `opening`, `formats/`, `columns` | find the files, recognise the tool that wrote them, choose the columns |
| `files`, `parsing`, `values`, `reading` | read rows piece by piece, cells as numbers |
| `grouping` | makes whole groups of them, in bounded memory |
| `groups` | computes the numbers of each group |
| `summary`, with `means` and `digest` | adds them up: the rows of ``results.json`` |
| `comparison`, `trend`, `findings`, `prompts` | compare logs, put results into words, judge prompts |
| `tables`, `folder` | name and format the columns, write the files |

`logs` runs all of it for one log; `ray_data` does so on a cluster.
"""
