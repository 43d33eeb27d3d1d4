// What kstatus, by which Flux and Helm wait for objects, says of each object of a JSON list on standard input: a JSON list
// of statuses and messages on standard output.
package main

import (
	"encoding/json"
	"io"
	"log"
	"os"

	"github.com/fluxcd/cli-utils/pkg/kstatus/status"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	kubejson "k8s.io/apimachinery/pkg/util/json"
)

func main() {
	text, err := io.ReadAll(os.Stdin)
	if err != nil {
		log.Fatal(err)
	}
	var objects []any
	if err := kubejson.Unmarshal(text, &objects); err != nil { // whole numbers stay whole, as clients of Kubernetes have them
		log.Fatal(err)
	}
	found := []map[string]string{}
	for _, object := range objects {
		result, err := status.Compute(&unstructured.Unstructured{Object: object.(map[string]any)})
		if err != nil {
			log.Fatal(err)
		}
		found = append(found, map[string]string{"status": result.Status.String(), "message": result.Message})
	}
	if err := json.NewEncoder(os.Stdout).Encode(found); err != nil {
		log.Fatal(err)
	}
}
