// Karpenter with its KWOK provider, whose market can be sold out: the file MARKET_FILE names the instance types that
// cannot be had at this moment, as a JSON list. It is read at every launch, so that a test changes it while this runs.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/log"
	kwok "sigs.k8s.io/karpenter/kwok/cloudprovider"
	v1 "sigs.k8s.io/karpenter/pkg/apis/v1"
	"sigs.k8s.io/karpenter/pkg/cloudprovider"
	"sigs.k8s.io/karpenter/pkg/cloudprovider/metrics"
	"sigs.k8s.io/karpenter/pkg/cloudprovider/overlay"
	"sigs.k8s.io/karpenter/pkg/controllers"
	"sigs.k8s.io/karpenter/pkg/controllers/state"
	"sigs.k8s.io/karpenter/pkg/operator"
)

// soldOut refuses to launch what the file names, as a cloud without stock does.
type soldOut struct {
	cloudprovider.CloudProvider
	file string
}

func (s *soldOut) Create(ctx context.Context, claim *v1.NodeClaim) (*v1.NodeClaim, error) {
	missing := map[string]bool{}
	for _, name := range s.read() {
		missing[name] = true
	}
	for _, requirement := range claim.Spec.Requirements {
		if requirement.Key != corev1.LabelInstanceTypeStable {
			continue
		}
		for _, name := range requirement.Values {
			if !missing[name] {
				return s.CloudProvider.Create(ctx, claim)
			}
		}
		return nil, cloudprovider.NewInsufficientCapacityError(fmt.Errorf("no capacity for %v", requirement.Values))
	}
	return s.CloudProvider.Create(ctx, claim)
}

// read is empty where there is no file, or one that is being written.
func (s *soldOut) read() (names []string) {
	if content, err := os.ReadFile(s.file); err == nil {
		_ = json.Unmarshal(content, &names)
	}
	return names
}

func main() {
	ctx, op := operator.NewOperator()
	types, err := kwok.ConstructInstanceTypes(ctx)
	if err != nil {
		log.FromContext(ctx).Error(err, "the instance types cannot be read")
		os.Exit(1)
	}
	seller := &soldOut{kwok.NewCloudProvider(ctx, op.GetClient(), types), os.Getenv("MARKET_FILE")}
	measured := metrics.Decorate(seller)
	sold := overlay.Decorate(measured, op.GetClient(), op.InstanceTypeStore)
	cluster := state.NewCluster(op.Clock, op.GetClient(), sold)
	op.WithControllers(ctx, controllers.NewControllers(
		ctx, op.Manager, op.Clock, op.GetClient(), op.EventRecorder, sold, measured, cluster, op.InstanceTypeStore,
	)...).Start(ctx)
}
