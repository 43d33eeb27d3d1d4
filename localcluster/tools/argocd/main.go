// The parts of Argo CD that sync an Application: the repo server, which renders manifests, and the application controller,
// which compares, applies and judges health. Between them they keep what they know in a Redis, which is one in memory here.
// The first argument names the part. Argo CD's own program holds its server, its CLI and more beside these.
package main

import (
	"fmt"
	"log"
	"os"
	"time"

	"github.com/alicebob/miniredis/v2"
	controller "github.com/argoproj/argo-cd/v3/cmd/argocd-application-controller/commands"
	reposerver "github.com/argoproj/argo-cd/v3/cmd/argocd-repo-server/commands"
	"github.com/spf13/cobra"
)

func redis() *cobra.Command {
	return &cobra.Command{Use: "redis ADDRESS", Args: cobra.ExactArgs(1), RunE: func(_ *cobra.Command, arguments []string) error {
		server := miniredis.NewMiniRedis()
		if err := server.StartAddr(arguments[0]); err != nil {
			return err
		}
		log.Printf("ready at %s", server.Addr())
		for range time.Tick(time.Second) { // its clock stands still unless it is moved, and nothing would ever expire
			server.FastForward(time.Second)
		}
		return nil
	}}
}

func main() {
	parts := map[string]func() *cobra.Command{
		"repo-server":            reposerver.NewCommand,
		"application-controller": controller.NewCommand,
		"redis":                  redis,
	}
	if len(os.Args) < 2 || parts[os.Args[1]] == nil {
		fmt.Fprintln(os.Stderr, "usage: argocd repo-server|application-controller|redis ...")
		os.Exit(2)
	}
	command := parts[os.Args[1]]()
	command.SetArgs(os.Args[2:])
	if err := command.Execute(); err != nil {
		os.Exit(1)
	}
}
