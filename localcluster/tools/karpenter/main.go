// Karpenter with its KWOK provider, whose market follows the file MARKET_FILE: it names the instance types that cannot be
// had at this moment, and those whose machines have yet to come. It is read at every launch, so that a test changes it while
// this runs.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
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

// market is the content of the file. An entry is an instance type, or TYPE/CAPACITY-TYPE for one way to rent it.
type market struct {
	SoldOut []string `json:"soldOut"`
	Held    []string `json:"held"`
}

// seller launches what its market has.
type seller struct {
	cloudprovider.CloudProvider
	client client.Client
	file   string
}

func (s *seller) Create(ctx context.Context, claim *v1.NodeClaim) (*v1.NodeClaim, error) {
	for allNamed(s.read().Held, claim) {
		// A claim that is given back meanwhile gets no machine.
		var now v1.NodeClaim
		if err := s.client.Get(ctx, client.ObjectKeyFromObject(claim), &now); err != nil {
			return nil, err
		}
		if !now.DeletionTimestamp.IsZero() {
			return nil, fmt.Errorf("%s was given back before its machine came", claim.Name)
		}
		time.Sleep(100 * time.Millisecond)
	}
	if allNamed(s.read().SoldOut, claim) {
		return nil, cloudprovider.NewInsufficientCapacityError(fmt.Errorf("no capacity for %v", claim.Spec.Requirements))
	}
	return s.CloudProvider.Create(ctx, claim)
}

// read is empty where there is no file.
func (s *seller) read() (now market) {
	if content, err := os.ReadFile(s.file); err == nil {
		_ = json.Unmarshal(content, &now)
	}
	return now
}

// allNamed tells whether entries name all that would do for a claim.
func allNamed(entries []string, claim *v1.NodeClaim) bool {
	types, capacities := values(claim, corev1.LabelInstanceTypeStable), values(claim, v1.CapacityTypeLabelKey)
	for _, name := range types {
		if slices.Contains(entries, name) {
			continue
		}
		for _, capacity := range capacities {
			if !slices.Contains(entries, name+"/"+capacity) {
				return false
			}
		}
		if len(capacities) == 0 {
			return false
		}
	}
	return len(types) > 0
}

// values are those that a claim requires of a label.
func values(claim *v1.NodeClaim, label string) (found []string) {
	for _, requirement := range claim.Spec.Requirements {
		if requirement.Key == label {
			found = append(found, requirement.Values...)
		}
	}
	return found
}

func main() {
	ctx, op := operator.NewOperator()
	types, err := kwok.ConstructInstanceTypes(ctx)
	if err != nil {
		log.FromContext(ctx).Error(err, "the instance types cannot be read")
		os.Exit(1)
	}
	provider := &seller{kwok.NewCloudProvider(ctx, op.GetClient(), types), op.GetClient(), os.Getenv("MARKET_FILE")}
	measured := metrics.Decorate(provider)
	sold := overlay.Decorate(measured, op.GetClient(), op.InstanceTypeStore)
	cluster := state.NewCluster(op.Clock, op.GetClient(), sold)
	op.WithControllers(ctx, controllers.NewControllers(
		ctx, op.Manager, op.Clock, op.GetClient(), op.EventRecorder, sold, measured, cluster, op.InstanceTypeStore,
	)...).Start(ctx)
}
